"""Requests that Relay sends to backends: backend hooks, which ask for a decision, and webhooks, which tell of events.

It knows no dialect, no route and no rule of who may do what.
"""
