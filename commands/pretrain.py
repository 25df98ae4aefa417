"""``fl2ora pretrain``: a small CLIP of one's own, from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fl2ora.commands.consoles import console_for
from fl2ora.experiment.paths import made_absolute
from fl2ora.pretraining.recipe import read_recipe

_TOLD_EVERY = 25  # steps


def pretrain(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False)],
    output: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            show_default=False,
            help="Of the model: a new one, or one to go on with.",
        ),
    ],
    threads: Annotated[int, typer.Option(min=1, max=1024, help="Threads of torch.")] = 2,
) -> None:
    """Train a small CLIP from nothing, by a recipe.

    FILE is a TOML file with the model's sizes and what it is shown (docs/pretraining.md). What
    comes out is a folder for the key model. After an interruption the same command goes on.
    """
    recipe = read_recipe(file)
    folder = Path(made_absolute(str(output)))
    console = console_for(stderr=False)
    # Imported here so that a mistake in the file is answered before torch is loaded.
    from fl2ora.clip_tuning.processor import use_processor
    from fl2ora.pretraining.pretrain import pretrain as train

    use_processor(threads)
    recent: list[float] = []
    begun = False

    def told(step: int, loss: float) -> None:
        nonlocal begun
        if not begun and step > 1:
            console.print(f"goes on after step {step - 1:,}")
        begun = True
        recent.append(loss)
        if step % _TOLD_EVERY == 0 or step == recipe.steps:
            mean = sum(recent) / len(recent)
            recent.clear()
            console.print(f"step {step:,} of {recipe.steps:,}: loss {mean:.3f}", soft_wrap=True)

    done = train(recipe, folder, told)
    console.print(
        f"{done.parameters:,} parameters, loss {done.loss:.3f}, {done.seconds / 60:.1f} minutes. "
        f"'fl2ora run --set model={folder}' tunes it.",
        markup=False,
        soft_wrap=True,
    )
