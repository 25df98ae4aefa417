"""The ``fl2ora`` command."""

from __future__ import annotations

import os
import signal
import sys
import warnings

import typer
from rich.console import Console
from rich.markup import escape

from fl2ora.commands.calibrate import calibrate
from fl2ora.commands.doctor import doctor
from fl2ora.commands.run import run
from fl2ora.experiment.errors import UserError

cli = typer.Typer(
    name="fl2ora",
    help="Calibrated federated fine-tuning of CLIP, as a Flower app.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cli.command()(run)
cli.command()(calibrate)
cli.command()(doctor)


def main() -> None:
    """Run the command line; a user's mistake ends in its message and exit code 2."""
    # Last, so that a plug-in in this folder is found and nothing of ours is hidden by it.
    sys.path.append(os.getcwd())
    # Third parties' deprecations are for developers, and tests turn them into errors.
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    # As a keyboard interrupt, so that whatever was started is stopped again.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        cli()
    except UserError as error:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(f"[bold red]error:[/] {escape(str(error))}")
        sys.exit(2)


def _interrupt(number: int, _: object) -> None:
    # `timeout` sends it twice, and the second must not interrupt the stopping.
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
