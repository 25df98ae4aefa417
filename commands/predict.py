"""``fl2ora predict``: classes of images with the confidence that they are right."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from fl2ora.commands.consoles import console_for
from fl2ora.commands.options import AsJson, Device, FittedSpec, Trained
from fl2ora.commands.verbosity import Verbose, set_verbosity
from fl2ora.experiment.errors import UserError, printable

if TYPE_CHECKING:
    from fl2ora.results.abstaining import ChosenThreshold
    from fl2ora.results.loading import Source
    from fl2ora.results.predictor import Predictor

_NAMED = 20  # bad files


def predict(
    trained: Trained,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", show_default=False)],
    top: Annotated[int, typer.Option(min=1, max=1000, help="Classes to show of each image.")] = 1,
    calibrator: FittedSpec = None,
    abstain_below: Annotated[
        float | None,
        typer.Option(show_default=False, help="Do not answer below this confidence."),
    ] = None,
    accuracy: Annotated[
        float | None,
        typer.Option(
            show_default=False,
            help="Choose --abstain-below on the run's held-out images so that at least this share "
            "of the answers is right, with a certainty of 95 %.",
        ),
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
    verbose: Verbose = None,
) -> None:
    """Classify images with the result of a run, and say how likely each answer is right.

    RUN is the folder of a finished run, or of an adapter that was exported. IMAGE... are files,
    folders, which are searched at any depth, and patterns such as 'photos/*.jpg'. Confidence is
    calibrated if the run has a calibrator.
    """
    set_verbosity(verbose)
    if abstain_below is not None and accuracy is not None:
        raise UserError("--accuracy: expected no --abstain-below beside it, which it chooses")
    for option, value in (("--abstain-below", abstain_below), ("--accuracy", accuracy)):
        if value is not None and not 0 < value < 1:
            raise UserError(f"{option}: expected a number between 0 and 1, found {value}")
    console = console_for(stderr=as_json)
    # Imported here so that a mistake above is answered before torch is loaded.
    from fl2ora.results.loading import source_at
    from fl2ora.results.pictures import find_images

    source = source_at(trained)
    paths = find_images(images)
    predictor = source.predictor(device, calibrator)
    chosen = _chosen(source, predictor, accuracy)
    threshold = abstain_below if chosen is None else chosen.threshold.below
    bad: dict[Path, str] = {}
    rows = _with_bar(console, _rows(predictor, paths, top, threshold or 0.0, bad), bad, len(paths))
    _print(console, rows, predictor)
    if chosen is not None:
        console.print(_said(chosen, accuracy), markup=False, soft_wrap=True)
    if as_json:
        print(json.dumps(_outcome(predictor, rows, bad, threshold, chosen)))
    _fail_if_any_is_bad(bad, len(paths))


def _with_bar(
    console: Console, rows: Iterator[dict[str, Any]], bad: Mapping[Path, str], total: int
) -> list[dict[str, Any]]:
    """Return all rows, and show meanwhile how many images are done."""
    done = []
    with Progress(*Progress.get_default_columns(), console=console, transient=True) as progress:
        task = progress.add_task("images", total=total)
        for row in rows:
            done.append(row)
            progress.update(task, completed=len(done) + len(bad))
    return done


def _chosen(source: Source, predictor: Predictor, accuracy: float | None) -> ChosenThreshold | None:
    if accuracy is None:
        return None
    if source.run is None:
        raise UserError(
            f"--accuracy: expected the folder of a run, which has held-out images to choose by, "
            f"found an adapter alone in {source.adapter}; --abstain-below takes a confidence"
        )
    from fl2ora.results.abstaining import choose_threshold

    return choose_threshold(source.run, predictor.calibrator, accuracy)


def _rows(
    predictor: Predictor, paths: Sequence[Path], top: int, threshold: float, bad: dict[Path, str]
) -> Iterator[dict[str, Any]]:
    """Yield what is said of each image; what is no image goes to ``bad``."""
    from fl2ora.results.pictures import read_images

    names = predictor.class_names
    for pictures in read_images(paths, predictor.fit):
        bad |= pictures.bad
        found = predictor.predict(pictures.images)
        classes, values = (part.tolist() for part in found.top(top))
        for place, path in enumerate(pictures.paths):
            which, confidence = classes[place], values[place]
            answered = confidence[0] >= threshold
            row = {
                "image": str(path),
                "class": names[which[0]] if answered else None,
                "confidence": confidence[0],
                "top": [
                    {"class": names[index], "confidence": value}
                    for index, value in zip(which, confidence, strict=True)
                ],
            }
            if found.sets is not None:
                order = found.probabilities[place].argsort(descending=True, stable=True)
                inside = order[found.sets[place][order]]
                row["set"] = [names[index] for index in inside.tolist()]
            yield row


def _print(console: Console, rows: Sequence[dict[str, Any]], predictor: Predictor) -> None:
    from fl2ora.calibration.calibrators._sets import SetCalibrator

    fitted = predictor.calibrator
    if not rows:
        return
    how = "not calibrated" if fitted is None else f"calibrated by {fitted.spec}"
    if fitted is not None and isinstance(fitted.calibrator, SetCalibrator):
        calibrated = "calibrated" if fitted.calibrator.calibrates else "not calibrated"
        how = f"{calibrated}, sets are of {fitted.spec}"
    table = Table(title=Text(f"Confidence is {how}"))
    for name in ("image", "class"):
        table.add_column(name, overflow="fold")
    table.add_column("confidence", justify="right", min_width=10)
    if "set" in rows[0]:
        table.add_column("set", overflow="fold")
    for row in rows:
        for place, guess in enumerate(row["top"]):
            first = place == 0
            answer = Text(printable(guess["class"]), style="bold" if first else "")
            if first and row["class"] is None:
                answer = Text(f"no answer ({printable(guess['class'])}?)", style="yellow")
            image = Text(printable(row["image"]) if first else "")
            inside = [Text(printable(", ".join(row["set"])))] if first and "set" in row else []
            table.add_row(image, answer, f"{100 * guess['confidence']:.1f} %", *inside)
    console.print(table)


def _said(chosen: ChosenThreshold, accuracy: float | None) -> str:
    found = chosen.threshold
    return (
        f"Answered is from a confidence of {found.below:.4f} on, so that at least "
        f"{100 * (accuracy or 0):g} % of the answers are right, with a certainty of 95 %, on "
        f"images like the {chosen.images:,} of {chosen.data}. "
        f"Of these {100 * found.answered:.1f} % are answered, {100 * found.accuracy:.1f} % of "
        "them rightly."
    )


def _outcome(
    predictor: Predictor,
    rows: Sequence[dict[str, Any]],
    bad: dict[Path, str],
    threshold: float | None,
    chosen: ChosenThreshold | None,
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "calibrator": None if predictor.calibrator is None else predictor.calibrator.spec,
        "abstain_below": threshold,
        "images": rows,
        "bad": {str(path): reason for path, reason in bad.items()},
    }
    if chosen is not None:
        found["chosen_on"] = {
            "data": chosen.data, "images": chosen.images, **asdict(chosen.threshold)
        }  # fmt: skip
    return found


def _fail_if_any_is_bad(bad: dict[Path, str], count: int) -> None:
    if not bad:
        return
    lines = [f"  - {path}: {reason}" for path, reason in list(bad.items())[:_NAMED]]
    if len(bad) > _NAMED:
        lines.append(f"  - and {len(bad) - _NAMED} more")
    raise UserError(f"{len(bad)} of {count} files cannot be used:\n" + "\n".join(lines))
