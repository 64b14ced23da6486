"""The soak: many thousand sessions come, misbehave and go, and the server is then as it was. `python -m tests.soak --help`."""
