"""Turns credentials into principals: tokens, tickets, API keys and sessions of the console.

It also has the published keys that verify tokens, and the users that tokens have named. It knows no dialect and no route.
"""
