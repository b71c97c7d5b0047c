"""What is computed: pruned ViT hashing, distillation, galleries, Hamming search, transport matching. Knows no Ray, no MLflow, no command line."""
