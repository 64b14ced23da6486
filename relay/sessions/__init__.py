"""A connected client: its session, outbox and heartbeat, and the flusher that writes for all sessions.

It knows no broker and no dialect.
"""
