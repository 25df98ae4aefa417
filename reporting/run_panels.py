"""Reliability of one finished run: zero-shot, after training, calibrated, from its saved logits."""

from __future__ import annotations

import contextlib

from matplotlib.figure import Figure

from fl2ora.calibration.stats import StatsSpec
from fl2ora.experiment.errors import UserError
from fl2ora.reporting.collected_runs import FinishedRun
from fl2ora.reporting.comparison import ZERO_SHOT
from fl2ora.reporting.comparison_figures import Draw, no_figure
from fl2ora.reporting.plot_style import NOTHING
from fl2ora.reporting.reliability_panels import draw_reliability, panels_size
from fl2ora.reporting.reliability_rows import stats_of_scores
from fl2ora.reporting.saved_scores import saved_scores


def reliability(run: FinishedRun, source: str) -> tuple[Draw, tuple[float, float]]:
    """Return how to draw the reliability of zero-shot CLIP and of the final model.

    And of what the run's calibrator makes of it, if it has one and it is applied to this source.
    """
    spec = StatsSpec(num_bins=int(run.config.get("num-bins", 15)))
    calibrator = str(run.config.get("calibrator", "none"))
    try:
        scores = saved_scores(run.folder, "none", source)
    except UserError:
        return no_figure, NOTHING
    panels = {
        ZERO_SHOT: stats_of_scores(scores.zero_shot, spec),
        "after training": stats_of_scores(scores.final, spec),
    }
    if calibrator != "none":
        with contextlib.suppress(UserError):  # a calibrator that did not serve this part left none
            final = saved_scores(run.folder, calibrator, source).final
            panels[calibrator] = stats_of_scores(final, spec)

    def draw(figure: Figure) -> None:
        draw_reliability(figure, panels)

    return draw, panels_size(len(panels))
