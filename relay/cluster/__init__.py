"""Several nodes over one database: the bus, delivery of other nodes' publications, leases and presence across nodes.

Its rows are in PostgreSQL, by modules of `relay.store.postgres`. It must not know dialects or HTTP. The broker and the
dialects know nothing of it.
"""
