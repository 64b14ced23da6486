"""Turns credentials into principals: tokens, published keys, API keys, and the users that tokens have named.

It knows no dialect and no HTTP.
"""
