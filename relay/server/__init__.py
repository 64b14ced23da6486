"""The composition root: builds the parts, starts them from the inside out, and stops them from the outside in.

It owns the process, and decides which requests begin a session. Only the command line uses it.
"""
