"""A callback that kills the process it is in, as a system does that is out of memory."""

from __future__ import annotations

import os
import signal

from fl2ora.server_app.callbacks.base import Callback, RunContext


class SelfDestruct(Callback):
    def on_start(self, run: RunContext) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
