"""Who sees and does what: tables of every role against every route and every frame, held to a real server."""
