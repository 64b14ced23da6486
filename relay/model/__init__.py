"""Values that store, broker and dialects share: principals, namespaces, grants, publications.

Pure: no I/O, no task, no lock. It knows only `config`, whose options a namespace has, and `ground`.
"""
