"""Turns credentials into principals: tokens, published keys, API keys, and the users that were seen.

It knows no dialect and no HTTP.
"""
