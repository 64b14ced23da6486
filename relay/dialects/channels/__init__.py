"""The `channels` dialect: the generic WebSocket service at `/api/ws`."""
