"""What a network or a matching costs."""
