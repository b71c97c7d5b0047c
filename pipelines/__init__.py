"""Where and how it runs: one module per job, each a config dataclass and `run(config)`; Ray, MLflow and the command line."""
