"""The clients of Relay: the JavaScript client and the demo page made with it. They know the wire, and no module of the
server."""
