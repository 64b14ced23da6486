"""`relay bench`: loads for a server, and their reports. It is an ordinary client and imports nothing of the server."""
