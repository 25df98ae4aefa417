"""The ServerApp: decode the context, run one experiment."""

from __future__ import annotations

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fl2ora.experiment.config import RunConfig
from fl2ora.server_app.federated_run import run_experiment

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment that the run config describes."""
    run_experiment(grid, RunConfig.from_flat(context.run_config), context.run_id)
