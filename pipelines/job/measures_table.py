"""The table of measures that a job prints."""

from collections.abc import Mapping

WITHOUT_MATCH = "queries_without_relevant"


def print_measures(measures: Mapping[str, Mapping[str, float]], *, title: str | None = None) -> None:
    """Prints a table with one row per measure and one column per ranking.

    A cell has the value, and half of the width of its 95 % confidence interval if that is known. The number of queries without a match has
    a row where it is not 0.

    Args:
        measures: {ranking: {measure: value}}, as `eet.metrics.rank_gallery` returns them.
        title: of the table.
    """
    from rich.console import Console
    from rich.table import Table

    from eet.metrics import measures_as_text

    cells = {ranking: dict(measures_as_text(values)) for ranking, values in measures.items()}
    half_widths = any("±" in cell for column in cells.values() for cell in column.values())
    table = Table(title=title, caption="± half of the 95 % confidence interval, over queries" if half_widths else None)
    table.add_column("measure")
    for ranking in measures:
        table.add_column(ranking, justify="right")
    names = dict.fromkeys(name for column in cells.values() for name in column)
    if not any(values.get(WITHOUT_MATCH) for values in measures.values()):
        names.pop(WITHOUT_MATCH, None)
    for name in names:
        table.add_row(name, *(column.get(name, "") for column in cells.values()))
    Console(width=100).print(table)
