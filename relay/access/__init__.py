"""The one way to publish and to subscribe, for every dialect and for HTTP, with the rules for both.

It also has the view and the hands of operators. It knows no dialect.
"""
