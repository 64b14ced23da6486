"""The commands. Each has its module; what takes long to import is imported by the command that needs it.

Results go to stdout alone, so that they can be piped; hints and errors go to stderr. A failure exits with 1, wrong
usage with 2.
"""
