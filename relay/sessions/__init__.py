"""A connected client: its session, outbox and heartbeat, and the flusher that writes for all sessions.

It also has the record of all open connections. It knows no broker and no dialect.
"""
