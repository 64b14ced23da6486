"""Rooms, their members and messages, and notifications.

It knows the broker and the store, but no dialect.
"""
