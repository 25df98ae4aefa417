"""``--verbose``: log lines on the standard error, and where an error came from."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

Verbose = Annotated[
    bool, typer.Option("--verbose", help="Show log lines, and a traceback with an error.")
]
_OURS = "fl2ora"


def set_verbosity(verbose: bool) -> None:
    """Show our log lines from INFO on, or warnings alone."""
    level = logging.INFO if verbose else logging.WARNING
    logging.getLogger(_OURS).setLevel(level)
    if verbose:
        logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=level)


def is_verbose() -> bool:
    """Return whether ``--verbose`` was given."""
    return logging.getLogger(_OURS).level == logging.INFO
