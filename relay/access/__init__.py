"""The one way to publish and to subscribe, for every dialect and for HTTP, with the rules of who may.

It knows no dialect.
"""
