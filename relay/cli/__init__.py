"""The commands, and the parts that they share. A command imports slow libraries only when it runs.

Commands write results to stdout, so that they can be piped, and hints and errors to stderr. A failure exits with 1,
wrong usage with 2.
"""
