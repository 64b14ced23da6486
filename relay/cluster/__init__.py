"""Several nodes over one database: the bus, delivery of other nodes' publications, leases and presence across nodes.

It must not know dialects, HTTP or which engine the database is. The broker and the dialects know nothing of it.
"""
