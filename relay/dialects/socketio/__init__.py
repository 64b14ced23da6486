"""The `socketio` dialect: prices over Socket.IO at `/socket.io/`, by polling and WebSocket."""
