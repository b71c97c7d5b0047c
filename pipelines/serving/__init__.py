"""The search page and its JSON API: one FastAPI application."""
