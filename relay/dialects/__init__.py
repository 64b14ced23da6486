"""The client APIs that Relay speaks, a folder each. They never import each other.

A further dialect is a folder here and a line in `registry`.
"""
