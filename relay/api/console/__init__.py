"""The console for operators at `/console`: its files, and how a person signs in and out. It must not know any dialect.

The console takes all that it shows from `/v1/admin`, as any other client of it may.
"""
