"""The one way to publish and to subscribe, for every dialect and for HTTP, with the rules for both.

It knows no dialect.
"""
