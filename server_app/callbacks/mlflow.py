"""A run in MLflow's tracking store."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fl2ora.server_app.callbacks._tracking import Tracking
from fl2ora.server_app.callbacks.base import RunContext

_LONGEST = 500  # signs of a value
_AT_ONCE = 100  # settings


class Mlflow(Tracking):
    """Records settings, metrics, plots and the adapter with MLflow.

    Args:
        folder: of ``mlflow.db`` and artifacts, which runs may share; the run's ``mlflow`` if left
            out.
        server: address of a tracking server, such as ``http://localhost:5000``; instead of a
            folder.
        experiment: name under which the run stands.
    """

    library, extra = "mlflow", "mlflow"

    def __init__(self, folder: str = "", server: str = "", experiment: str = "fl2ora") -> None:
        super().__init__(folder)
        self.server, self.experiment = server, experiment

    def begin(self, run: RunContext, folder: Path) -> None:
        """Create the run; nothing global of MLflow's is changed."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        place = None
        if not self.server:  # MLflow 3 has given up stores of plain files
            folder.mkdir(parents=True, exist_ok=True)
            place = (folder / "artifacts").as_uri()
        store = self.server or f"sqlite:///{folder / 'mlflow.db'}"
        self._client: Any = MlflowClient(tracking_uri=store)
        known = self._client.get_experiment_by_name(self.experiment)
        experiment = (
            known.experiment_id
            if known is not None
            else self._client.create_experiment(self.experiment, artifact_location=place)
        )
        self._id = self._client.create_run(experiment, run_name=run.folder.name).info.run_id
        settings = [Param(key, str(v)[:_LONGEST]) for key, v in run.config.flat().items()]
        for start in range(0, len(settings), _AT_ONCE):
            self._client.log_batch(self._id, params=settings[start : start + _AT_ONCE])

    def send(self, server_round: int, values: Mapping[str, float]) -> None:
        """Record metrics with the round as their step."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, server_round) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def keep(self, plots: list[Path], adapter: Path | None) -> None:
        """Store plots and adapter as artifacts."""
        for path in plots:
            self._client.log_artifact(self._id, str(path), "plots")
        if adapter is not None:
            self._client.log_artifacts(self._id, str(adapter), adapter.name)
        self._client.set_terminated(self._id)
