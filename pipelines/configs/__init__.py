"""The options of every job, one module for each: the dataclass whose fields are the flags, their defaults, the check of their values.

`pipelines/JOB.py` runs what `pipelines/configs/JOB.py` describes. These modules load in a moment, so that `eet JOB --help` and the refusal
of a wrong flag do not wait for torch, Ray or pyarrow: at their top they import the standard library, `eet.options`, `eet.errors`, and the
modules of `pipelines.job` and of this package that do the same. A check that needs more imports it where it is made.
"""
