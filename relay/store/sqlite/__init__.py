"""The store on SQLite: one file, its migrations, checkpoints, backup and verification.

It knows the shared modules of the store, and nothing of PostgreSQL.
"""
