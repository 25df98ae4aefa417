"""The ``fl2ora`` command.

Exit codes: 0, all is well; 1, ``doctor`` found a problem; 2, a mistake in what was given, a
run that failed, or something the system refused, with the reason; 130, interrupted. A fault of ours
ends in a traceback.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from typing import Annotated

import click
import typer
from rich.markup import escape

import fl2ora
from fl2ora.commands.calibrate import calibrate
from fl2ora.commands.compare import compare
from fl2ora.commands.consoles import console_for
from fl2ora.commands.data import data
from fl2ora.commands.doctor import doctor
from fl2ora.commands.domains import domains
from fl2ora.commands.evaluate import evaluate
from fl2ora.commands.export import export
from fl2ora.commands.keys import keys
from fl2ora.commands.node_check import check
from fl2ora.commands.node_run import run_node
from fl2ora.commands.predict import predict
from fl2ora.commands.pretrain import pretrain
from fl2ora.commands.report import report
from fl2ora.commands.run import run
from fl2ora.commands.sweep import sweep
from fl2ora.commands.verbosity import is_verbose
from fl2ora.experiment.errors import RunInterruptedError, UserError, printable

_INTERRUPTED = 130

cli = typer.Typer(
    name="fl2ora",
    help="Calibrated federated fine-tuning of CLIP, as a Flower app.",
    epilog="Exit codes: 0 all is well; 1 doctor found a problem; "
    "2 a mistake or a failure, with the reason; 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cli.command(
    epilog="Settings are flat keys such as num-rounds or strategy, in a TOML file or after --set. "
    "'fl2ora keys' lists them all; docs/ says what they may be."
)(run)
cli.command()(sweep)
cli.command()(compare)
cli.command()(report)
cli.command()(calibrate)
cli.command()(predict)
cli.command()(evaluate)
cli.command()(export)
cli.command()(data)
cli.command()(domains)
cli.command()(pretrain)
cli.command()(keys)
cli.command()(doctor)

node = typer.Typer(help="For those who run a node of a federation.", no_args_is_help=True)
node.command()(check)
node.command("run", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
    run_node
)
cli.add_typer(node, name="node")


@node.callback()
def node_options() -> None:
    """For those who run a node of a federation."""


def _version(wanted: bool) -> None:
    if wanted:
        print(f"fl2ora {fl2ora.__version__}")
        raise typer.Exit


@cli.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Calibrated federated fine-tuning of CLIP, as a Flower app."""


def main() -> None:
    """Run the command line; what goes wrong ends in one message and exit code 2."""
    # Last, so that a plug-in in this folder is found and nothing of ours is hidden by it.
    try:
        sys.path.append(os.getcwd())
    except FileNotFoundError:
        _fail("the folder you are in was taken away: change to another one")
    # Third parties' deprecations are for developers, and tests turn them into errors.
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    # As a keyboard interrupt, so that whatever was started is stopped again.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        code = cli(prog_name="fl2ora", standalone_mode=False) or 0
    except RunInterruptedError as error:
        print(f"interrupted: {printable(str(error))}", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    except UserError as error:
        _fail(str(error))
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.UsageError as error:
        _fail(f"{error.format_message()}\nTry '{_command(error)} --help'.")
    except click.Abort:
        code = _INTERRUPTED
    except BrokenPipeError:  # of whoever read the output, such as head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(f"the system refused: {error}")
    except MemoryError:
        _fail("there is not enough memory for this")
    if code == _INTERRUPTED:
        print("interrupted", file=sys.stderr)
    sys.exit(code)


def _command(error: click.UsageError) -> str:
    return error.ctx.command_path if error.ctx else "fl2ora"


def _fail(message: str) -> None:
    if is_verbose():
        traceback.print_exc()
    console = console_for(stderr=True)
    console.quiet = False
    console.print(f"[bold red]error:[/] {escape(printable(message))}", soft_wrap=True)
    sys.exit(2)


def _interrupt(number: int, _: object) -> None:
    # `timeout` sends it twice, and the second must not interrupt the stopping.
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
