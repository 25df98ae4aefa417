"""Tables of metrics on the terminal, a few columns at a time."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

_COLUMNS = 5  # fit a terminal of 80 characters beside the first one


def print_metrics(
    console: Console, title: str, head: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """Print rows of text; where there are many columns, as several tables.

    Args:
        console: where to.
        title: above the first table.
        head: of each column; the first column names the rows and stands in every table.
        rows: as long as ``head``.
    """
    for start in range(1, max(2, len(head)), _COLUMNS):
        shown = [0, *range(start, min(start + _COLUMNS, len(head)))]
        table = Table(title=Text(title) if start == 1 else None)
        for column in shown:
            longest = max(map(len, head[column].split()))  # no word of a heading is cut
            table.add_column(
                Text(head[column]), justify="right", no_wrap=column == 0, min_width=longest
            )
        for row in rows:
            table.add_row(*(Text(row[column]) for column in shown))
        console.print(table)
