"""The table that a job prints of measures."""

from collections.abc import Mapping


def print_measures(measures: Mapping[str, Mapping[str, float]], *, title: str | None = None) -> None:
    """Rankings side by side, one measure a row: its value, and half of its 95 % confidence interval's width where that is known.

    measures: {ranking: {measure: value}}, as `eet.metrics.rank_gallery` gives them.
    """
    from rich.console import Console
    from rich.table import Table

    from eet.metrics import measures_with_bounds

    cells = {
        ranking: {name: _cell(name, value, bounds) for name, value, bounds in measures_with_bounds(values)}
        for ranking, values in measures.items()
    }
    half_widths = any("±" in cell for column in cells.values() for cell in column.values())
    table = Table(title=title, caption="± half of the 95 % confidence interval, over queries" if half_widths else None)
    table.add_column("measure")
    for ranking in measures:
        table.add_column(ranking, justify="right")
    for name in dict.fromkeys(name for column in cells.values() for name in column):
        table.add_row(name, *(column.get(name, "") for column in cells.values()))
    Console(width=100).print(table)


def _cell(name: str, value: float, bounds: tuple[float, float] | None) -> str:
    if name.startswith("queries"):
        return str(int(value))
    return f"{value:.4f}" if bounds is None else f"{value:.4f} ±{(bounds[1] - bounds[0]) / 2:.4f}"
