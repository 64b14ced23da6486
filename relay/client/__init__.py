"""The clients of Relay: in Python (`relay.client.python`), in JavaScript, and the demo page. They know the wire, and no
module of the server."""
