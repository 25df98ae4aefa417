"""The ``fl2ora`` command."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from commands.doctor import doctor
from commands.run import run
from experiment.errors import UserError

cli = typer.Typer(
    name="fl2ora",
    help="Calibrated federated fine-tuning of CLIP, as a Flower app.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cli.command()(run)
cli.command()(doctor)


def main() -> None:
    """Run the command line; a user's mistake ends in its message and exit code 2."""
    try:
        cli()
    except UserError as error:
        Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {_plain(str(error))}")
        sys.exit(2)


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
