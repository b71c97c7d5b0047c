"""A gallery, its queries and its hits: search, re-rank, evaluate, panels of hits."""
