"""Services that keep a long run healthy: metrics, the janitor, garbage collection, open files, signals, systemd.

It knows no dialect and no transport.
"""
