"""Services that keep a long run healthy: metrics, the janitor, garbage collection, systemd.

No dialect and no transport.
"""
