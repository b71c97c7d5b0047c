"""The length of the hash code: the size of a gallery row against how well codes separate labels."""

from typing import Any, Literal

from ray import tune

PUBLISHED_BITS = (16, 32, 48, 64)


def bits(form: Literal["random", "grid"] = "grid", *, lengths: tuple[int, ...] = PUBLISHED_BITS) -> dict[str, Any]:
    """Tune's search space over the flag student.bits.

    Args:
        form: 'grid' takes each length once; 'random' draws one for each trial.
        lengths: the choices, each 1 or more; published are 16 to 64.
    """
    if not lengths or min(lengths) < 1:
        raise ValueError(f"lengths {tuple(lengths)}: give one or more numbers from 1")
    if form not in ("random", "grid"):
        raise ValueError(f"form {form!r}: use 'random' or 'grid'")
    return {"student.bits": tune.grid_search(list(lengths)) if form == "grid" else tune.choice(list(lengths))}
