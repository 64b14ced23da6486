"""Channels in memory: publishing, subscriptions, history, presence and idempotency.

It names no dialect and no store; the store implements its protocol.
"""
