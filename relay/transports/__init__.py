"""Bytes from and to peers: listener, streams, TLS, HTTP/1.1, WebSocket, event streams, and the hand-over to Hypercorn.

It knows no dialect, no session of a user and no channel.
"""
