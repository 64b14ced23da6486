"""The store on PostgreSQL: connections in threads, the schema, batches as one statement, and notifications.

It knows the shared modules of the store, and nothing of SQLite. psycopg is imported here alone.
"""
