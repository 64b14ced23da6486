"""Requests that Relay sends to backends: backend hooks, which ask for a decision, and webhooks, which report events.

It knows no dialect, no HTTP route and no right.
"""
