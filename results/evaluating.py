"""A finished run's classifier measured on any dataset, before and after its calibrator."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from fl2ora.calibration.metrics.metric import Metric
from fl2ora.calibration.metrics.table import chosen_metrics, spec_for
from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.clip_tuning.clip import image_fit
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError, listed
from fl2ora.federated_data.protocols.base import Federation, HeldOutPart, PartMean
from fl2ora.federated_data.shares import NO_DATA, load_federation
from fl2ora.reporting.logits import SavedLogits
from fl2ora.reporting.sources import part_of, part_source
from fl2ora.results.loading import Source
from fl2ora.results.other_names import as_tuned_on, plain_name
from fl2ora.results.predictor import Predictor
from fl2ora.server_app.held_out import HeldOut
from fl2ora.server_app.measure_saved import measure_saved
from fl2ora.server_app.metrics_by_source import all_metrics
from fl2ora.server_app.part_models import ZERO_SHOT, PartModels, check_part_classes
from fl2ora.server_app.scores import saved_logits, score

UNTUNED, TUNED, CALIBRATED = "zero-shot", "tuned", "calibrated"
WHOLE = "test"
"""What the only part is called."""


@dataclass(frozen=True)
class Evaluated:
    """What was measured.

    Attributes:
        dataset: its spec.
        protocol: its spec, which says what of the dataset was measured.
        table: a row for each part and model (``zero-shot``, ``tuned``, ``calibrated``): ``part``,
            ``model``, metrics by name, ``<metric>_low`` and ``<metric>_high``.
        metrics: that were asked for.
        notes: sentences on classes and data.
    """

    dataset: str
    protocol: str
    table: pd.DataFrame
    metrics: tuple[Metric, ...]
    notes: tuple[str, ...]


def evaluate(
    source: Source,
    dataset: str | None = None,
    protocol: str | None = None,
    metrics: str | None = None,
    *,
    calibrator: str | None = None,
    device: str = "auto",
) -> Evaluated:
    """Measure a classifier on the central held-out parts of a dataset, as a run would.

    Args:
        source: of the classifier.
        dataset: spec; None: the run's.
        protocol: spec, which says what is held out; None: the run's, or with another dataset its
            test split.
        metrics: see ``chosen_metrics``; None: the run's.
        calibrator: see ``Source.calibrator``.
        device: as the key of that name.

    Raises:
        UserError: a mistake in these, or the classifier cannot serve the classes.
    """
    config = source.config or RunConfig.from_flat(
        {"model": source.saved.model, "method": source.saved.method, "seed": source.saved.seed}
    )
    if dataset is None and (source.config is None or config.dataset == NO_DATA):
        raise UserError("dataset: expected one, since there is none that the run measured on")
    if dataset == NO_DATA:
        raise UserError(f"dataset: expected one to measure on, found {NO_DATA!r}")
    others = dataset is not None and dataset != config.dataset
    protocol = protocol or ("in_distribution" if others else config.protocol)
    dataset = dataset or config.dataset
    try:
        chosen = chosen_metrics(metrics or config.metrics)
    except ValueError as error:
        raise UserError(f"metrics: {error}") from None
    federation = load_federation(
        dataset, protocol, image_fit(config.model), "report" if others else config.on_leak
    )
    predictor = source.predictor(device, calibrator)
    federation, notes = _with_known_classes(federation, predictor)
    saved = _logits(config, federation, predictor)
    rows, left_out = _measured(saved, predictor, config, chosen, federation.means)
    notes += [f"{part}: not calibrated: {reason}" for part, reason in left_out.items()]
    return Evaluated(dataset, protocol, pd.DataFrame(rows), chosen, tuple(notes))


def name_of(source: str) -> str:
    """Return what a part is called in tables: its name, or ``test``.

    >>> name_of("server-test/new"), name_of("server-test")
    ('new', 'test')
    """
    return part_of(source) or WHOLE


def _with_known_classes(
    federation: Federation, predictor: Predictor
) -> tuple[Federation, list[str]]:
    """Return the data as seen from the classifier, and what is to be said of classes."""
    tuned_on, notes, parts = predictor.class_names, list(federation.notes), []
    for part in federation.parts:
        name = name_of(part_source(part.name))
        same = as_tuned_on(part, tuned_on)
        if same is None:
            notes.append(_of_others(name, part, tuned_on))
        elif part.class_names != tuned_on:
            notes.append(
                f"{name}: its classes are those tuned on, in another spelling or order: mapped"
            )
        parts.append(same or part)
    templates = predictor.classifier.templates
    return (
        replace(federation, parts=tuple(parts), class_names=tuned_on, templates=templates),
        notes,
    )


def _of_others(name: str, part: HeldOutPart, tuned_on: tuple[str, ...]) -> str:
    known = {plain_name(one) for one in tuned_on}
    new = [one for one in part.class_names if plain_name(one) not in known]
    among = f", {len(new)} of them not tuned on" if new else ""
    examples = f" ({listed(new[:3])}{', ...' if len(new) > 3 else ''})" if new else ""
    return (
        f"{name}: classified among its own {len(part.class_names)} classes{among}{examples}, with "
        "their names as prompts"
    )


def _logits(config: RunConfig, federation: Federation, predictor: Predictor) -> SavedLogits:
    """Return what the classifier and the untuned one make of the parts."""
    main, untuned = predictor.classifier, predictor.zero_shot
    adapter = main.export()
    check_part_classes(main, config, federation.parts)
    tuned = PartModels(main, config.method, config, federation.parts)
    tuned.restore(adapter)
    held = HeldOut(config, federation, {})
    start = score(0, held, PartModels(untuned, ZERO_SHOT, config, federation.parts))
    return saved_logits(held, start, score(config.num_rounds, held, tuned), ({}, {}), ())


def _measured(
    saved: SavedLogits,
    predictor: Predictor,
    config: RunConfig,
    metrics: tuple[Metric, ...],
    means: tuple[PartMean, ...],
) -> tuple[list[dict[str, object]], dict[str, str]]:
    """Return a row for each part and model, and why a part was not calibrated."""

    def spec_of(classes: int) -> StatsSpec:
        return spec_for(metrics, config.num_bins, classes)

    sums: dict[str, Mapping[str, CalibrationStats]] = {
        model: {
            source: CalibrationStats.from_logits(
                part.zero_shot if model == UNTUNED else part.logits,
                part.labels,
                spec_of(part.num_classes),
            )
            for source, part in saved.central.items()
        }
        for model in (UNTUNED, TUNED)
    }
    left_out: Mapping[str, str] = {}
    sets: Mapping[str, Mapping[str, float]] = {}
    if (fitted := predictor.calibrator) is not None:
        after = measure_saved(fitted.calibrator, fitted.parameters, saved, spec_of)
        sums[CALIBRATED], left_out = after.central, after.left_out
        sets = after.set_metrics(suffix="")
    found = {
        model: all_metrics(central, {}, config.resamples, "", metrics, means)
        for model, central in sums.items()
    }
    rows = [
        {
            "part": name_of(source),
            "model": model,
            **values[source],
            **(sets.get(source, {}) if model == CALIBRATED else {}),
        }
        for source in found[TUNED]
        for model, values in found.items()
        if source in values
    ]
    return rows, {name_of(source): reason for source, reason in left_out.items()}


def by_part(table: pd.DataFrame) -> Iterator[tuple[str, list[dict[Hashable, Any]]]]:
    """Yield the rows of each part, in order."""
    for part, rows in table.groupby("part", sort=False):
        yield str(part), rows.to_dict("records")
