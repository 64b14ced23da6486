"""A server made of Relay's transports alone, for public protocol suites to be run against: see `__main__`."""
