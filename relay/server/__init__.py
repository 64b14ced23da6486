"""The composition root: builds the parts, starts them from the inside out, stops them from the outside in.

Only the command line stands above it.
"""
