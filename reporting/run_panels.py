"""Reliability of one finished run, before and after, from its saved logits."""

from __future__ import annotations

from matplotlib.figure import Figure

from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.experiment.errors import UserError
from fl2ora.reporting.collected_runs import FinishedRun
from fl2ora.reporting.comparison_figures import Draw, no_figure
from fl2ora.reporting.logits import SavedLogits
from fl2ora.reporting.plot_style import NOTHING
from fl2ora.reporting.reliability_panels import draw_reliability, panels_size


def reliability(run: FinishedRun, source: str) -> tuple[Draw, tuple[float, float]]:
    """Return how to draw the reliability of zero-shot CLIP and of the final model."""
    try:
        part = SavedLogits.load(run.folder).central.get(source)
    except UserError:
        part = None
    if part is None:
        return no_figure, NOTHING
    spec = StatsSpec(num_bins=int(run.config.get("num-bins", 15)))
    panels = {
        name: CalibrationStats.from_logits(logits, part.labels, spec)
        for name, logits in (("zero-shot", part.zero_shot), ("after training", part.logits))
    }

    def draw(figure: Figure) -> None:
        draw_reliability(figure, panels)

    return draw, panels_size(len(panels))
