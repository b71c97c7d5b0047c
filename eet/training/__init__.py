"""Training without Ray: which image goes into which step, and how it is drawn."""
