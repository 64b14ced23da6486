"""Errors, clock, timers, logs, strict JSON and histograms. Every package may use them; they use no package of Relay."""
