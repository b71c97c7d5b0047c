"""What is computed: pruned ViT hashing, galleries, Hamming search, matching. Knows no Ray, no MLflow, no command line."""
