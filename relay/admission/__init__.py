"""Decides which clients may connect, and how often they may ask: addresses, origins, rate limits.

It knows no session, no channel and no transport.
"""
