"""Starting a run from its settings: what they leave open is filled in, and its folder claimed."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console

from fl2ora.experiment.config import RunConfig, Value
from fl2ora.experiment.errors import UserError, shown
from fl2ora.experiment.paths import made_absolute, with_absolute_settings
from fl2ora.experiment.spec import parse_spec
from fl2ora.reporting.run_directory import (
    OUTPUT_VARIABLE,
    check_free,
    claim_name,
    held,
    runs_root,
)
from fl2ora.reporting.run_file import RunFile


def run(
    settings: Mapping[str, Value] | RunConfig | None = None,
    clients: int = 10,
    *,
    console: Console | None = None,
) -> Path:
    """Run one experiment in this process, as ``fl2ora run --engine in-process`` does.

    Args:
        settings: run-config keys such as ``{"num-rounds": 3}``; those left out have their defaults.
            Relative paths are taken from the current directory.
        clients: how many to simulate.
        console: where to show progress; None: nowhere.

    Returns:
        The run's folder, which ``fl2ora.load_run`` reads. Without ``output-dir`` it is made in
        ``$FL2ORA_OUTPUT_DIR``, or in ``runs`` below the current directory.

    Raises:
        UserError: a mistake in the settings or the data; or nothing was trained.
    """
    if settings is not None and not isinstance(settings, Mapping | RunConfig):
        raise UserError(
            f"settings: expected keys of the run config with their values, found {shown(settings)}"
        )
    flat = settings.flat() if isinstance(settings, RunConfig) else dict(settings or {})
    config, problems = described(with_absolute_settings(flat), clients)
    # Imported here, so that a console can be answered before torch and Flower are loaded.
    from fl2ora.engines.in_process import run_in_process
    from fl2ora.server_app.run_plugins import build_plugins

    build_plugins(config, problems)
    with claimed(config) as (named, folder):
        run_in_process(named, clients, folder, console or Console(quiet=True))
    return folder


def described(settings: Mapping[str, Value], clients: int) -> tuple[RunConfig, tuple[str, ...]]:
    """Return the run's configuration, as far as it is right, and a sentence for each mistake.

    Args:
        settings: flat keys; what they leave open depends on this machine and is filled in.
        clients: how many there will be.
    """
    whole = isinstance(clients, int) and not isinstance(clients, bool) and clients >= 1
    given = {**({"num-clients": clients} if whole else {}), **settings}
    problems: tuple[str, ...] = ()
    if not given.get("output-dir"):
        try:
            given["output-dir"] = made_absolute(os.environ.get(OUTPUT_VARIABLE, "") or "runs")
        except UserError as error:
            problems += (f"${OUTPUT_VARIABLE}: {error}",)
    config, found = RunConfig.usable(given)
    problems += found
    if not whole:
        problems += (f"clients: expected a whole number of at least 1, found {clients!r}",)
    elif config.num_clients not in (0, clients):
        problems += (
            f"num-clients: expected {clients}, the number of clients, or 0 for all of them, "
            f"found {config.num_clients}",
        )
    elif config.min_train_clients > clients:
        problems += (
            f"min-train-clients: expected at most {clients}, the number of clients, "
            f"found {config.min_train_clients}",
        )
    return config, problems


def settings_of(folder: Path) -> dict[str, Value]:
    """Return the settings with which the run in a folder goes on there.

    Raises:
        UserError: there is no run.
    """
    path = Path(made_absolute(str(folder)))
    here: dict[str, Value] = {
        "resume": str(path), "output-dir": str(path.parent), "run-name": path.name,
    }  # fmt: skip
    return {**RunFile.read(path).config, **here}


@contextlib.contextmanager
def claimed(config: RunConfig) -> Iterator[tuple[RunConfig, Path]]:
    """Yield the configuration with a run name, and the folder it leads to.

    A run that goes on has its folder, and whether it can is found out here, without touching it. A
    name that was given must be free. One that was not says when and what; its folder is made at
    once, so that no other run gets it, and taken away again if the run leaves it empty.

    Raises:
        UserError: the name is taken, the folder cannot be made, or its run cannot go on.
    """
    if config.resume:
        from fl2ora.server_app.resuming import look_back  # loads torch

        folder = Path(config.resume)
        RunFile.read(folder)
        with held(folder):
            look_back(folder, config)
        yield config, folder
        return
    root = runs_root(config.output_dir)
    if config.run_name:
        check_free(root / config.run_name)
        yield config, root / config.run_name
        return
    words = [parse_spec(text).name for text in (config.method, config.strategy)]
    name = claim_name(root, "-".join([time.strftime("%Y%m%d-%H%M%S"), *words]))
    try:
        yield config.model_copy(update={"run_name": name}), root / name
    finally:
        with contextlib.suppress(OSError):  # it holds a run
            (root / name).rmdir()
