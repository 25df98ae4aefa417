"""The plots of a run: reliability before and after, smooth reliability, clients, rounds.

Each function takes data, writes ``<path>.png`` and ``<path>.svg`` and returns both paths. Equal
data give equal files, and without data a figure says so. The bootstrap intervals in them are those
of ``fl2ora.calibration.reliability``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fl2ora.calibration.stats import CalibrationStats
from fl2ora.reporting.client_panels import CLIENTS_SHOWN, clients_size, draw_clients, worst_of
from fl2ora.reporting.plot_style import COLUMN, new_figure, save
from fl2ora.reporting.reliability_panels import draw_reliability, draw_smooth, panels_size
from fl2ora.reporting.round_curves import draw_rounds


def reliability_figure(
    panels: Mapping[str, CalibrationStats], path: Path, title: str = ""
) -> list[Path]:
    """Draw reliability diagrams side by side, for example before and after training.

    One or two panels fit a column of a paper, more its page. The height of a bar is the accuracy
    of its bin; the hatched part lies between accuracy and mean confidence. Whiskers are 95 %
    bootstrap intervals of the accuracy. The strip below counts the examples.

    Args:
        panels: statistics by the name to show above them.
        path: of both files; a suffix ``.png`` or ``.svg`` is replaced. Its folder must exist.
        title: above all panels.

    Returns:
        The paths of the PNG and the SVG.
    """
    with new_figure(*panels_size(len(panels), title)) as figure:
        draw_reliability(figure, panels, title)
        return save(figure, path)


def smooth_figure(
    panels: Mapping[str, CalibrationStats], path: Path, title: str = ""
) -> list[Path]:
    """Draw smooth reliability diagrams side by side; needs the fine histogram.

    Arguments and result are those of ``reliability_figure``. The strip below is the density of the
    confidences.
    """
    with new_figure(*panels_size(len(panels), title)) as figure:
        draw_smooth(figure, panels, title)
        return save(figure, path)


def clients_figure(
    clients: Mapping[str, CalibrationStats], path: Path, limit: int = CLIENTS_SHOWN
) -> list[Path]:
    """Draw one small reliability diagram for each client, the worst ECE first.

    Args:
        clients: statistics by client; those without examples are left out and counted.
        path: of both files, as in ``reliability_figure``.
        limit: how many clients to show, at least 1; the figure states how many are left.

    Returns:
        The paths of the PNG and the SVG.

    Raises:
        ValueError: ``limit`` is below 1.
    """
    if limit < 1:
        raise ValueError(f"limit must be at least 1, found {limit}")
    worst = worst_of(clients, limit)
    with new_figure(*clients_size(len(worst.shown))) as figure:
        draw_clients(figure, worst)
        return save(figure, path)


def rounds_figure(
    rows: pd.DataFrame | Sequence[Mapping[str, Any]], path: Path, changes: Sequence[int] = ()
) -> list[Path]:
    """Draw accuracy and ECE over the rounds.

    Args:
        rows: of ``metrics.jsonl``: ``round``, ``source`` and metrics by name as fractions. Drawn
            are the central parts, ``clients-test`` (pooled) and ``clients-test-mean`` with
            ``clients-test-sd`` as a band; other sources are ignored, missing ones left out.
        path: of both files, as in ``reliability_figure``.
        changes: rounds from which on other clients were measured; each is a dotted line.

    Returns:
        The paths of the PNG and the SVG.
    """
    with new_figure(COLUMN, 3.5) as figure:
        draw_rounds(figure, pd.DataFrame(rows), changes)
        return save(figure, path)
