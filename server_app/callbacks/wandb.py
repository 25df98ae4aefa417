"""A run in Weights & Biases, offline unless it is asked to go online."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from fl2ora.server_app.callbacks._tracking import Tracking
from fl2ora.server_app.callbacks.base import RunContext


class Wandb(Tracking):
    """Records settings, metrics, plots and the adapter with Weights & Biases.

    Args:
        folder: of its files; the run's ``wandb`` if left out.
        project: name under which the run stands.
        mode: ``offline``, to be sent later by ``wandb sync``, or ``online``.
    """

    library, extra = "wandb", "wandb"

    def __init__(
        self,
        folder: str = "",
        project: str = "fl2ora",
        mode: Literal["offline", "online"] = "offline",
    ) -> None:
        super().__init__(folder)
        self.project, self.mode = project, mode

    def begin(self, run: RunContext, folder: Path) -> None:
        """Begin a run whose metrics are counted by round."""
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        self._wandb: Any = wandb.init(
            project=self.project,
            name=run.folder.name,
            dir=str(folder),
            config=run.config.flat(),
            mode=self.mode,
        )
        self._wandb.define_metric("*", step_metric="round")

    def send(self, server_round: int, values: Mapping[str, float]) -> None:
        """Record metrics with their round."""
        self._wandb.log({"round": server_round, **values})

    def keep(self, plots: list[Path], adapter: Path | None) -> None:
        """Record plots as images and the adapter as an artifact."""
        import wandb

        self._wandb.log({f"plots/{path.stem}": wandb.Image(str(path)) for path in plots})
        if adapter is not None:
            artifact = wandb.Artifact(f"{self._wandb.id}-adapter", type="model")
            artifact.add_dir(str(adapter))
            self._wandb.log_artifact(artifact)
        self._wandb.finish()
