"""Search spaces: one module for each, with a function from a few typed options to a Ray Tune dictionary."""
