"""The configuration: relay.toml, the environment and flags, as one frozen tree of settings.

`tree` declares the settings, with `dialects`, `namespaces`, `hooks` and `webhooks`. `loading` reads them. `example` writes
the commented file, and `reference` the page of the handbook. This package imports only `ground`. A part that needs
settings is handed its section.
"""
