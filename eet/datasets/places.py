"""Where images were taken. Images of places match by distance, not by label."""

from dataclasses import dataclass
from typing import get_args

import numpy as np

from eet.errors import InputError
from eet.options.choices import Role

ROLES: tuple[str, ...] = get_args(Role)


@dataclass(frozen=True, eq=False)
class Places:
    """Position, role and condition of N images.

    Raises:
        InputError: a role is not query, database or empty, or an easting is known without its northing.
    """

    metres_N2: np.ndarray
    """(N, 2) float64: easting and northing in metres; NaN where unknown."""
    zones_N: np.ndarray
    """(N,) of str: the zone of the coordinates (a city, a UTM zone). Distances exist inside one zone only. Empty if there is only one."""
    roles_N: np.ndarray
    """(N,) of str: 'query', 'database' or empty."""
    conditions_N: np.ndarray
    """(N,) of str: what measures are broken down by (day, night); empty where unknown."""
    headings_N: np.ndarray | None = None
    """(N,) float64: where the camera looks, in degrees from north, clockwise; NaN where unknown. None in a dataset without headings."""

    def __post_init__(self) -> None:
        rows = len(self.metres_N2)
        assert self.metres_N2.shape == (rows, 2) and self.metres_N2.dtype == np.float64, (self.metres_N2.shape, self.metres_N2.dtype)
        assert {len(self.zones_N), len(self.roles_N), len(self.conditions_N)} == {rows}
        assert self.headings_N is None or (self.headings_N.shape == (rows,) and self.headings_N.dtype == np.float64)
        unknown = sorted(set(self.roles_N.tolist()) - {*ROLES, ""})
        if unknown:
            raise InputError(f"role {unknown[0]!r}: allowed are {', '.join(ROLES)}, and none")
        half = np.flatnonzero(np.isfinite(self.metres_N2).sum(axis=1) == 1)
        if len(half):
            raise InputError(f"{len(half)} images have one coordinate without the other: a position is an easting and a northing")

    def take(self, rows: np.ndarray) -> "Places":
        """Those of some rows, given by position or by mask."""
        headings = None if self.headings_N is None else self.headings_N[rows]
        return Places(self.metres_N2[rows], self.zones_N[rows], self.roles_N[rows], self.conditions_N[rows], headings)
