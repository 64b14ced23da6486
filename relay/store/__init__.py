"""The database: one writer with group commit, one module per aggregate, verification, and copies between engines.

Functions take a transaction of the writer. `sqlite` and `postgres` are the engines. Above the store, most modules know
neither. `cluster` and `server.build` use modules of `postgres`, because only PostgreSQL has several nodes; `relay backup` uses
`sqlite`. `publications` has the methods of the broker's protocol `Store`. The package imports neither the broker nor a dialect.
"""
