"""Bytes from and to peers: listener, streams, TLS, WebSocket, and the hand-over to the HTTP server.

It knows no dialect, no session of a user and no channel.
"""
