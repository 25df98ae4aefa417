"""The report of a run or a sweep: a page, tables in every format, and figures, in one folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import fl2ora.calibration as calibration  # its names are loaded when used, and torch with them
from fl2ora.calibration.metrics.metric import Metric
from fl2ora.experiment.fingerprint import library_versions
from fl2ora.reporting.against_baseline import against_baseline
from fl2ora.reporting.collected_runs import Collection
from fl2ora.reporting.comparison import metrics_of, summarised
from fl2ora.reporting.comparison_costs import Target
from fl2ora.reporting.comparison_figures import drawn, svg
from fl2ora.reporting.comparison_text import (
    SUFFIXES,
    TextTable,
    baseline_table,
    has_parquet,
    summary_table,
    write,
)
from fl2ora.reporting.html.page import Page, PageFigure
from fl2ora.reporting.report_figures import ReportFigure, figures_of
from fl2ora.reporting.report_sentences import run_sentences, sweep_sentences
from fl2ora.reporting.report_sets import rows_table, run_table, sets_of
from fl2ora.reporting.report_tables import choices_table, rounds_table
from fl2ora.reporting.whole_files import write_whole

PAGE_FILE = "report.html"
_PLACED = ("output-dir", "run-name")


def write_report(
    collection: Collection,
    folder: Path,
    baseline: Mapping[str, str],
    target: Target | None = None,
    metrics: str | None = None,
) -> Path:
    """Write a report and return its page.

    Written are ``report.html``, which needs no other file; ``summary`` and ``baseline`` as
    Markdown, LaTeX, CSV and Parquet; and the figures as PNG and SVG.

    Args:
        collection: finished runs.
        folder: where to; made if need be.
        baseline: what differences are tested against, see ``baseline_from``.
        target: what runs may reach, or None.
        metrics: names joined by ``+``, or None for those that tables show.
    """
    chosen = metrics_of(collection, metrics)
    summary = summarised(collection, chosen, collection.source, target)
    tests, notes = against_baseline(collection, baseline, collection.source)
    figures = figures_of(collection)
    folder.mkdir(parents=True, exist_ok=True)
    tables = [summary_table(summary, collection.axes, chosen, target)]
    tables += [baseline_table(tests, collection.axes)] if len(tests) else []
    tables += _sets(collection)
    numbers = {"summary": summary} | ({"baseline": tests} if len(tests) else {})
    for kind, suffix in SUFFIXES.items():
        if kind != "parquet" or has_parquet():
            write(folder / f"summary{suffix}", kind, tables, numbers)
    for figure in figures:
        drawn(figure.draw, figure.size, folder / figure.name)
    notes = [*collection.notes, *notes]
    page = _page(collection, chosen, summary, tests, tables, figures, notes)
    write_whole(folder / PAGE_FILE, page.html())
    return folder / PAGE_FILE


def _page(
    collection: Collection,
    metrics: Sequence[Metric],
    summary: pd.DataFrame,
    tests: pd.DataFrame,
    tables: Sequence[TextTable],
    figures: Sequence[ReportFigure],
    notes: Sequence[str],
) -> Page:
    single = collection.single
    more = [rounds_table(collection.runs[0], collection.source)] if single else []
    if collection.choices:
        more.append(choices_table(collection.choices))
    sentences = (
        run_sentences(collection.runs[0], collection.source)
        if single
        else sweep_sentences(collection, summary, tests)
    )
    drawings = [
        PageFigure(f.title, f.caption, svg(f.draw, f.size, f"f{number}"))
        for number, f in enumerate(figures)
    ]
    codes = ", ".join(sorted({run.code for run in collection.runs}))
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    footer = f"Code of the runs: {codes}. This page was made with {versions}."
    return Page(
        collection.title, sentences, notes, [*tables, *more], drawings,
        _settings(collection), _glossary(metrics), footer,
    )  # fmt: skip


def _sets(collection: Collection) -> list[TextTable]:
    """Return the tables of sets of classes, where a calibrator answers with such."""
    if collection.single:
        return [run_table(sets) for sets in sets_of(collection.runs[0].folder)]
    table = rows_table(collection, collection.source)
    return [] if table is None else [table]


def _settings(collection: Collection) -> dict[str, str]:
    """Return what all runs have in common, and where they differ, as text."""
    configs = [run.config for run in collection.runs]
    common = {
        key: value
        for key, value in configs[0].items()
        if key not in _PLACED and all(config.get(key) == value for config in configs)
    }
    found = {"Settings that all runs share": _lines(common)}
    keys = [key for key in configs[0] if key not in common and key not in _PLACED]
    if keys:
        lines = [
            f"{run.folder.name}: "
            + ", ".join(f"{k} = {json.dumps(run.config.get(k))}" for k in keys)
            for run in collection.runs
        ]
        found["Settings in which runs differ"] = "\n".join(lines)
    return found


def _lines(values: Mapping[str, Any]) -> str:
    return "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items())


def _glossary(metrics: Sequence[Metric]) -> dict[str, str]:
    found = {metric.title: metric.description for metric in metrics}
    found["confidence"] = next(m.description for m in calibration.METRICS if m.name == "confidence")
    found["p, images"] = (
        "chance of such a difference if there were none, had the test images been others: by "
        "random swaps of the two models on each image for accuracy and NLL, for ECE by a test of "
        "the squared calibration error; of several seeds, twice the median"
    )
    found["p, seeds"] = (
        "the same, had the seeds been others: Wilcoxon's signed-rank test; with five seeds it "
        "cannot be below 0.0625"
    )
    return found
