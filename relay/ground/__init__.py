"""Errors, clock, timers, logs, strict JSON, schemas, histograms. The server's packages may use them; they use no package of Relay."""
