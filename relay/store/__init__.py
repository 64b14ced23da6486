"""The database: one writer with group commit, one module per aggregate, migrations, backup, verification.

Functions take a connection in a transaction that the writer opened. The package knows values and the broker's
protocol for stores, but no dialect.
"""
