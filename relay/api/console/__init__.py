"""The console for operators at `/console`: its files, and how a person signs in and out. It must not know any dialect.

What the console shows comes from `/v1/admin`, as for any other client of it.
"""
