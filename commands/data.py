"""``fl2ora data``: who would hold what, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fl2ora.commands.consoles import console_for
from fl2ora.commands.options import Assignments
from fl2ora.commands.settings import read_settings
from fl2ora.commands.verbosity import Verbose, set_verbosity
from fl2ora.engines.new_run import described
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import ConfigError
from fl2ora.experiment.paths import made_absolute
from fl2ora.reporting.sources import part_source
from fl2ora.reporting.whole_files import write_whole

if TYPE_CHECKING:
    import pandas as pd

    from fl2ora.federated_data.protocols.base import Federation

_ROWS = 20  # clients in the table of the terminal; the file has all
_PICTURES = 24


def data(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", show_default=False)] = None,
    assignments: Assignments = None,
    clients: Annotated[int, typer.Option(min=1, help="Number of clients.")] = 10,
    output: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where to write the table and the pictures.")
    ] = Path("data-report"),
    near: Annotated[
        int | None,
        typer.Option(
            metavar="BITS",
            min=0,
            max=16,
            show_default=False,
            help="Also look for images that look alike: at most BITS of 64 apart; try 4.",
        ),
    ] = None,
    verbose: Verbose = None,
) -> None:
    """Show who holds which images and what is held out, before anything is trained.

    FILE and --set are those of 'fl2ora run'. Written are clients.csv (images by client, part, class
    and domain), clients.png and .svg (the same as a picture), images.png and .svg (some training
    images with their prompts). --near adds near.csv, near.png and .svg.
    """
    set_verbosity(verbose)
    output = Path(made_absolute(str(output)))
    config, problems = described(read_settings(file, assignments or []), clients)
    # Imported here so that a mistake on the command line is answered before torch is loaded.
    from fl2ora.federated_data.shares import check_plugins

    found = [*problems, *check_plugins(config.dataset, config.protocol, config.partition)]
    if found:
        raise ConfigError(found)
    if near is not None:
        from fl2ora.federated_data.near import check_library

        check_library()
    console = console_for(stderr=False)
    with console.status("reading and dividing images"):
        _show(console, config, clients, near, output)


def _show(
    console: Console, config: RunConfig, clients: int, near: int | None, output: Path
) -> None:
    """Print who would hold what, and write it into a folder."""
    from fl2ora.clip_tuning.clip import image_fit
    from fl2ora.federated_data.holdings import by_client, count_images, divided
    from fl2ora.federated_data.shares import check_division, load_federation

    fit = image_fit(config.model, config.augmentation)
    federation = load_federation(config.dataset, config.protocol, fit, config.on_leak)
    _describe(console, config, federation)
    fractions = config.local_test_fraction, config.calibration_fraction
    shares = divided(federation, config.partition, clients, config.seed, fractions)
    for note in check_division(federation, list(shares.values()), config.on_leak):
        console.print(note, markup=False, soft_wrap=True)
    counts = count_images(federation, shares)
    table = by_client(counts, shares)
    _print_clients(console, table, len(federation.class_names))
    output.mkdir(parents=True, exist_ok=True)
    write_whole(output / "clients.csv", counts.to_csv(index=False))
    _draw(federation, counts, output, config.seed)
    if near is not None:
        from fl2ora.commands.near_duplicates import report_near

        report_near(console, federation, shares, near, output)
    console.print(f"Written to {output.absolute()}", markup=False, soft_wrap=True)


def _describe(console: Console, config: RunConfig, federation: Federation) -> None:
    """Print what there is before it is divided."""
    lines = [
        f"{config.dataset}, {config.protocol}, {config.partition}, seed {config.seed}",
        f"{len(federation.train):,} images to share among the clients, {_held_out(federation)}",
        _listed("class", "classes", federation.class_names),
        _listed("domain", "domains", federation.domains),
        _listed("template", "templates", federation.templates),
        *federation.notes,
    ]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _held_out(federation: Federation) -> str:
    parts = [
        f"{len(part.images):,} held out ({part_source(part.name)})" for part in federation.parts
    ]
    return ", ".join(parts)


def _listed(one: str, many: str, names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    return f"{len(names)} {one if len(names) == 1 else many}: {shown}"


def _print_clients(console: Console, table: pd.DataFrame, num_classes: int) -> None:
    """Print a row for each client, of many the largest and the smallest."""
    title = f"{len(table)} clients"
    if len(table) > _ROWS:
        ranked = table.sort_values("images", ascending=False, kind="stable")
        title += f", the {_ROWS // 2} with the most and the {_ROWS // 2} with the fewest images"
        half = _ROWS // 2
        shown = list(ranked.index[:half]) + list(ranked.index[-half:])
    else:
        shown = list(table.index)
    grid = Table(title=Text(title))
    heads = ("client", "images", "train", "test", "calibration", "classes", "domains", "most of")
    for head in heads:
        grid.add_column(head, justify="left" if head == "most of" else "right")
    for row in table.loc[shown].to_dict("records"):
        numbers = [f"{row[name]:,}" for name in heads[1:7]]
        most = f"{row['most']} ({100 * row['share']:.0f} %)" if row["images"] else "-"
        grid.add_row(*(Text(cell) for cell in (row["client"], *numbers, most)))
    console.print(grid)
    console.print(
        f"images of a client: {table['images'].min():,} to {table['images'].max():,}, "
        f"median {table['images'].median():,.0f}; classes of a client: {table['classes'].min()} to "
        f"{table['classes'].max()} of {num_classes}",
        soft_wrap=True,
    )


def _draw(federation: Federation, counts: pd.DataFrame, output: Path, seed: int) -> None:
    """Draw the holdings, and images of as many classes as fit, each class's from the seed."""
    import numpy as np

    from fl2ora.experiment.seeds import derive_seed
    from fl2ora.reporting.data_plots import contact_sheet, holdings_figure

    holdings_figure(counts, federation.class_names, output / "clients")
    train = federation.train
    order = np.random.default_rng(derive_seed(seed, "contact-sheet")).permutation(len(train))
    labels = train.labels.numpy()[order]
    # The first image of every class in random order, then the second of every class, and so on.
    turn = np.empty(len(order), dtype=np.int64)
    for label in np.unique(labels):
        (places,) = np.nonzero(labels == label)
        turn[places] = np.arange(len(places))
    chosen = order[np.argsort(turn, kind="stable")[:_PICTURES]]
    chosen = chosen[np.argsort(train.labels.numpy()[chosen], kind="stable")]
    names, template = federation.class_names, federation.templates[0]
    images = [train.images[int(index)].numpy() for index in chosen]
    captions = [template.format(names[int(train.labels[int(index)])]) for index in chosen]
    contact_sheet(images, captions, output / "images")
