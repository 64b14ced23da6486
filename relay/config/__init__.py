"""The configuration: relay.toml, the environment and flags, as one frozen tree of settings.

What there is to set is in `tree` and `dialects`, how it is read in `loading`, the commented file in `example`. Nothing
else of Relay is imported: whoever needs settings is handed their section.
"""
