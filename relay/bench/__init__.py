"""`relay bench`: loads for a server and what came of them. A client of Relay like any other: it imports nothing of the server."""
