"""A finished run as an object: its settings, tables, logits, plots and classifier."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import pandas as pd
from matplotlib.figure import Figure

from fl2ora.calibration.calibrators.files import FittedCalibrator
from fl2ora.calibration.metrics.table import chosen_metrics, spec_for
from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.calibration.summaries import summarise
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.reporting.events import EVENTS_FILE, METRICS_FILE, read_lines
from fl2ora.reporting.logits import SavedLogits
from fl2ora.reporting.plot_style import COLUMN, new_figure
from fl2ora.reporting.reliability_panels import draw_reliability, panels_size
from fl2ora.reporting.round_curves import draw_rounds
from fl2ora.reporting.run_file import read_config
from fl2ora.reporting.sources import main_source
from fl2ora.reporting.tables import metrics_table
from fl2ora.results.loading import source_at
from fl2ora.results.predictor import Predictor
from fl2ora.server_app.measure_saved import MeasuredParts, measure_saved


@dataclass(frozen=True)
class SavedRun:
    """A run's folder, each part of which is read when it is first asked for.

    Attributes:
        folder: where it lies.
        config: all settings.
    """

    folder: Path
    config: RunConfig

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """Every row of the record: ``round`` (0 is zero-shot), ``source``, and metrics by name."""
        try:
            return metrics_table(self.folder)
        except (ValueError, TypeError, KeyError, OSError) as error:
            path = self.folder / METRICS_FILE
            raise UserError(f"{path}: expected the metrics of a run: {error}") from None

    @cached_property
    def clients(self) -> pd.DataFrame:
        """A row for each client: what it holds, and the result's metrics on its test images.

        ``<metric>_calibrated`` is after the calibrator. Where the clients' images lie on their
        nodes there are no metrics; the record has only their mean, spread and worst.
        """
        rows = {
            str(node["client"]): dict(node)
            for event in read_lines(self.folder / EVENTS_FILE)
            if event.get("event") == "nodes" and isinstance(event.get("nodes"), list)
            for node in event["nodes"]
            if isinstance(node, dict) and "client" in node
        }
        for client, part in self.logits.test.items():
            stats = CalibrationStats.from_logits(
                part.logits, part.labels, self._spec(part.num_classes)
            )
            row = rows.setdefault(client, {"client": client, "test": len(part.labels)})
            row |= self._values(stats)
            if self._calibrated is not None:
                after = self._values(self._calibrated.clients[client])
                row |= {f"{name}_calibrated": value for name, value in after.items()}
        return pd.DataFrame(list(rows.values()))

    @cached_property
    def logits(self) -> SavedLogits:
        """Logits and labels of what was held out on the server."""
        return SavedLogits.load(self.folder)

    @cached_property
    def calibrator(self) -> FittedCalibrator | None:
        """The fitted calibrator; None if the run has none."""
        return source_at(self.folder).calibrator()

    def classifier(self, device: str = "auto", calibrator: str | None = None) -> Predictor:
        """Return the tuned CLIP, with its calibrator, ready to predict.

        Args:
            device: as the key of that name.
            calibrator: spec of one that was fitted to the run, or ``none``; None: the run's.

        Raises:
            UserError: something is missing or damaged; names it.
        """
        return source_at(self.folder).predictor(device, calibrator)

    def reliability(self, source: str | None = None) -> Figure:
        """Draw reliability diagrams: zero-shot, after training, and calibrated.

        Args:
            source: of a central held-out part, such as ``server-test``; None: the first.
        """
        parts = self.logits.central
        name = source or main_source(parts)
        if name not in parts:
            raise UserError(
                f"{self.folder}: source: expected one of {', '.join(parts) or '(none)'}, "
                f"found {name!r}"
            )
        part, spec = parts[name], StatsSpec(num_bins=self.config.num_bins)
        panels = {
            "zero-shot": CalibrationStats.from_logits(part.zero_shot, part.labels, spec),
            "after training": CalibrationStats.from_logits(part.logits, part.labels, spec),
        }
        if self._calibrated is not None and name in self._calibrated.central:
            panels["calibrated"] = self._calibrated.central[name]
        with new_figure(*panels_size(len(panels))) as figure:
            draw_reliability(figure, panels)
            return cast(Figure, figure)

    def curves(self) -> Figure:
        """Draw accuracy and ECE over the rounds."""
        with new_figure(COLUMN, 3.5) as figure:
            draw_rounds(figure, self.metrics)
            return cast(Figure, figure)

    @cached_property
    def _calibrated(self) -> MeasuredParts | None:
        fitted = self.calibrator
        if fitted is None:
            return None
        return measure_saved(fitted.calibrator, fitted.parameters, self.logits, self._spec)

    def _spec(self, classes: int) -> StatsSpec:
        return spec_for(chosen_metrics(self.config.metrics), self.config.num_bins, classes)

    def _values(self, stats: CalibrationStats) -> dict[str, float]:
        found = summarise(stats, chosen_metrics(self.config.metrics))
        return {name: value for name, value in found.items() if name != "num_examples"}


def load_run(folder: Path | str) -> SavedRun:
    """Return the run in a folder.

    Raises:
        UserError: there is none, or its ``run.json`` is damaged.
    """
    path = Path(folder)
    return SavedRun(path, read_config(path))
