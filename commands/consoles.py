"""Where commands write: as wide as the terminal, and without line breaks of ours elsewhere."""

from __future__ import annotations

import os
import sys

from rich.console import Console

from fl2ora.commands.verbosity import is_quiet

_UNLIMITED = 10_000  # columns; tables are no wider than their contents


def console_for(*, stderr: bool) -> Console:
    """Return a console for the standard output or the standard error.

    What is piped or redirected is not wrapped, unless ``COLUMNS`` says how wide it may be. With
    ``--quiet`` it prints nothing.
    """
    is_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    width = None if is_terminal or os.environ.get("COLUMNS") else _UNLIMITED
    return Console(stderr=stderr, highlight=False, width=width, quiet=is_quiet())
