"""A table of checks on the terminal: what was found, and what is amiss."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fl2ora.experiment.errors import UserError, printable

Check = Callable[[], tuple[str, str]]
"""Returns what it found, and what is amiss with it or nothing."""


def run_checks(console: Console, title: str, checks: Mapping[str, Check]) -> None:
    """Run all checks, one after the other, and print what they found.

    Raises:
        typer.Exit: with code 1, if something is amiss.
    """
    table = Table("what", "found", "verdict", title=title)
    told: list[str] = []
    for name, check in checks.items():
        try:
            with console.status(name):
                found, problem = check()
        except (ImportError, OSError, MemoryError, UserError) as error:
            found, problem = "", str(error) or type(error).__name__
        verdict = Text(printable(problem), "red") if problem else Text("ok", "green")
        if problem in told:  # one check's problem is another's
            verdict = Text("as above", "red")
        elif problem:
            told.append(problem)
        table.add_row(name, Text(printable(found)), verdict)
    console.print(table)
    if told:
        console.print(f"{len(told)} problem{'s' if len(told) > 1 else ''} found", style="red")
        raise typer.Exit(1)
