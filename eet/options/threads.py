"""How the threads of torch wait for each other."""

SLEEPING_THREADS = {"OMP_WAIT_POLICY": "passive"}
"""Environment variables that are read when torch is loaded. Without them, waiting threads of a network spin: they take the time of decoding
threads, and on a machine that others use too, the same work takes two to three times as long."""
