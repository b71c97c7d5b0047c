"""What every job has: options, output, tracking, cluster, progress, errors, environment."""
