"""The page of the command line: every command with its arguments and options."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click
import typer

from fl2ora.commands.app import cli
from fl2ora.commands.reference.specs import WRITTEN


def page() -> str:
    """Return the page."""
    group = typer.main.get_command(cli)
    lines = [WRITTEN, "# Command line", ""]
    lines += [
        str(group.help),
        "",
        f"{group.epilog} `fl2ora COMMAND --help` prints what stands here.",
    ]
    for name, command in _commands(group, "fl2ora"):
        lines += ["", f"## {name}", "", *_about(name, command)]
    return "\n".join([*lines, ""])


def _commands(group: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Yield every command that is no group, with all its names from the first."""
    if not isinstance(group, click.Group):
        yield name, group
        return
    for part, command in group.commands.items():
        yield from _commands(command, f"{name} {part}")


def _about(name: str, command: click.Command) -> list[str]:
    context = click.Context(command, info_name=name)
    usage = " ".join(command.collect_usage_pieces(context))
    lines = ["```text", f"{name} {usage}", "```", "", inspect.cleandoc(command.help or "")]
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    told = [_option(option, context) for option in options]
    lines += ["", *told] if told else []
    return [*lines, "", command.epilog] if command.epilog else lines


def _option(option: click.Option, context: click.Context) -> str:
    """Return one line of the list: names, what it takes, what it is, default."""
    names, words = option.get_help_record(context) or ("", "")
    return f"- `{names}`: {words}"
