"""The database: one writer with group commit, one module per aggregate, verification, and copies between engines.

Functions take a transaction of the writer. `sqlite` and `postgres` are the engines; no module above the store knows which
one is in use. The package knows values and the protocol of the broker, and no dialect.
"""
