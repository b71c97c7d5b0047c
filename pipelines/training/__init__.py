"""Training on Ray Train, and what is trained."""
