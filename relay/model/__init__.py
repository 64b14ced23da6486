"""Values that store, broker and dialects share: principals, kinds of channel, publications.

Pure: no I/O, no task, no lock. It knows only `ground`.
"""
