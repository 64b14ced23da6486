"""The one way to publish and to subscribe, for every dialect and for HTTP, with the rules for both.

It is also the way for operators to see connections and channels and to act on them. It knows no dialect.
"""
