"""``fl2ora node run``: a SuperNode that does not load all libraries anew for every message."""

from __future__ import annotations

import typer

from fl2ora.engines.warm_node import run_warm_node


def run_node(context: typer.Context) -> None:
    """Run a SuperNode; all options are those of flower-supernode.

    It answers as one started by that command does, seconds earlier each time: a process that has
    loaded torch and transformers once is forked for each message, where Flower starts a new one.
    """
    raise typer.Exit(run_warm_node(context.args))
