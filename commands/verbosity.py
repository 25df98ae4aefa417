"""``--verbose`` and ``--quiet``: how much is said on the way."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

Verbose = Annotated[
    bool | None,
    typer.Option(
        "--verbose/--quiet",
        show_default=False,
        help="Show log lines, and a traceback with an error; or print nothing but errors, and what "
        "--json and --format ask for.",
    ),
]
_OURS = "fl2ora"


def set_verbosity(verbose: bool | None) -> None:
    """Show our log lines from INFO on, warnings alone, or, if it is False, errors alone."""
    level = {True: logging.INFO, None: logging.WARNING, False: logging.ERROR}[verbose]
    logging.getLogger(_OURS).setLevel(level)
    if verbose:
        logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=level)


def is_verbose() -> bool:
    """Return whether ``--verbose`` was given."""
    return logging.getLogger(_OURS).level == logging.INFO


def is_quiet() -> bool:
    """Return whether ``--quiet`` was given."""
    return logging.getLogger(_OURS).level == logging.ERROR
