"""The database: one writer with group commit, one module per aggregate, migrations, backup, verification.

Functions take a connection in a transaction that the writer opened. It knows values and the protocol of the broker, no dialect.
"""
