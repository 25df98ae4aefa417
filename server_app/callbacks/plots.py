"""The plots of a finished run."""

from __future__ import annotations

from fl2ora.reporting.comings import changes_of_clients
from fl2ora.reporting.rewinding import lasting_events
from fl2ora.reporting.sources import file_ending, part_of
from fl2ora.reporting.tables import metrics_table
from fl2ora.server_app.callbacks.base import Callback, RunContext


class Plots(Callback):
    """Draws reliability before and after, its smooth form, the rounds, and every client."""

    def on_end(self, run: RunContext) -> None:
        """Draw into the run directory."""
        # Matplotlib takes a second to load, and the first round need not wait for it.
        from fl2ora.reporting.plots import (
            clients_figure,
            reliability_figure,
            rounds_figure,
            smooth_figure,
        )

        folder = run.folder
        for source, panels in run.evaluation.panels().items():
            end = file_ending(source)
            reliability_figure(panels, folder / f"reliability{end}", part_of(source))
            smooth_figure(panels, folder / f"smooth{end}", part_of(source))
        changes = [*changes_of_clients(lasting_events(folder))]
        rounds_figure(metrics_table(folder), folder / "rounds", changes)
        clients_figure(run.evaluation.clients, folder / "clients")
