"""HTTP for backends and operators: publishing, health, metrics, and what every route shares.

It knows no dialect; dialects bring their own routes.
"""
