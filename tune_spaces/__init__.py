"""What is swept: one module per search space, each a function from a small typed choice to a Ray Tune dictionary."""
