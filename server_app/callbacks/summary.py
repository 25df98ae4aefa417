"""``summary.md`` of a finished run."""

from __future__ import annotations

from fl2ora.reporting.run_summary import write_summary
from fl2ora.server_app.callbacks.base import Callback, RunContext


class Summary(Callback):
    """Writes what the run was and what came out, for a person, with the plots there are."""

    def on_end(self, run: RunContext) -> None:
        """Write it."""
        write_summary(run.folder, run.config)
