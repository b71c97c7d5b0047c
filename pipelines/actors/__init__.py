"""The Ray side of encoding, search and re-ranking."""
