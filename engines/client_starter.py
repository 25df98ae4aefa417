"""The process that starts those which compute clients, as the run sees it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection

from fl2ora.engines.endings import cause_of

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from fl2ora.engines.client_process import start_clients; start_clients(int(sys.argv[2]))"
)
_GRACE = 10.0  # seconds for it to answer or to end


class ClientStarter:
    """Runs ``client_process.start_clients``, which imports the libraries at once.

    Once it has ended, what it is told does not happen; whoever waits for a process finds its
    channel closed then.

    Args:
        threads: of each process that computes clients.
    """

    def __init__(self, threads: int) -> None:
        self._forked = False
        self._control, theirs = socket.socketpair()
        self._control.settimeout(_GRACE)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            # Else asking torch whether there is a GPU would spoil it for the forked processes.
            "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
        }
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps(sys.path), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                env=environment,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # a Ctrl-C is for the run, and imports take seconds
            )

    def load(self, run: Mapping[str, object]) -> None:
        """Have data and model of a run loaded; see ``start_clients``."""
        self._order(run)

    def fork(self) -> Connection:
        """Have a process forked, and return the channel to it."""
        self._forked = True
        ours, theirs = socket.socketpair()
        with theirs:
            self._order({"fork": True}, [theirs])
        return Connection(ours.detach())

    def end(self, pid: int) -> str:
        """Have a process ended, if it has not yet, and return what it ended with."""
        self._order({"end": pid})
        with contextlib.suppress(OSError):
            if code := self._control.recv(16):
                return cause_of(int(code))
        return "the one that started it"

    def close(self) -> None:
        """End it and all that it forked."""
        self._control.close()
        if self._forked:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE)
        self._process.kill()
        self._process.wait()

    def _order(self, order: Mapping[str, object], ends: Sequence[socket.socket] = ()) -> None:
        line = json.dumps(order).encode() + b"\n"
        with contextlib.suppress(OSError):
            socket.send_fds(self._control, [line], [end.fileno() for end in ends])
