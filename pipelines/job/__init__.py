"""Shared parts of all jobs: options, output, tracking, cluster, progress, errors, environment."""
