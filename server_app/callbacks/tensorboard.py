"""TensorBoard's event files of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fl2ora.server_app.callbacks._tracking import Tracking
from fl2ora.server_app.callbacks.base import RunContext


class Tensorboard(Tracking):
    """Writes metrics, settings and plots for TensorBoard.

    Args:
        folder: of the event files; the run's ``tensorboard`` if left out.
    """

    library, extra = "tensorboard", "tensorboard"

    def begin(self, run: RunContext, folder: Path) -> None:
        """Open the event file; settings are a text."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder))
        settings = json.dumps(run.config.flat(), indent=1)
        self._writer.add_text("settings", f"```json\n{settings}\n```", 0)

    def send(self, server_round: int, values: Mapping[str, float]) -> None:
        """Write scalars, so that they can be looked at while the run goes on."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, server_round)
        self._writer.flush()

    def keep(self, plots: list[Path], adapter: Path | None) -> None:
        """Write the plots as images; the adapter stays where it is."""
        import numpy as np
        from PIL import Image

        for path in plots:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
            self._writer.add_image(path.stem, pixels, dataformats="HWC")
        self._writer.close()
