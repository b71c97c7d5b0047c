"""The cost of a network or a matching."""
