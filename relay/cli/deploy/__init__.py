"""`relay deploy`: files that run Relay on a server, for the present configuration. It must not know the server's parts."""
