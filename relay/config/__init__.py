"""The configuration: relay.toml, the environment and flags, as one frozen tree of settings.

`tree` and `dialects` declare the settings, `loading` reads them, and `example` writes the commented file. This
package imports only `ground`. A part that needs settings is handed its section.
"""
