"""Fuzzers: what comes from outside meets every decoder of Relay, mutated, and nothing but documented errors may come out."""
