"""Losses that misbehave while they train, for runs whose clients are processes of their own."""

from __future__ import annotations

import os
import time
from pathlib import Path

from torch import Tensor

from fl2ora.calibration.losses.cross_entropy import CrossEntropy


class _Once(CrossEntropy):
    """Does something in one client alone: the first that makes ``marker``, an absolute path."""

    def __init__(self, marker: str) -> None:
        self._marker = Path(marker)

    def _is_first(self) -> bool:
        try:
            self._marker.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class HangsOnce(_Once):
    """Sleeps for an hour in one client."""

    def __call__(self, *args: object, **kwargs: object) -> Tensor:
        if self._is_first():
            time.sleep(3600)
        return super().__call__(*args, **kwargs)  # type: ignore[arg-type]


class DiesOnce(_Once):
    """Ends the process of one client, as the kernel does when memory is short."""

    def __call__(self, *args: object, **kwargs: object) -> Tensor:
        if self._is_first():
            os._exit(1)
        return super().__call__(*args, **kwargs)  # type: ignore[arg-type]


class Faulty(CrossEntropy):
    """A loss of one's own with a mistake in it."""

    def __call__(self, *args: object, **kwargs: object) -> Tensor:
        raise IndexError("index 10 is out of bounds")
