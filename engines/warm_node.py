"""A SuperNode whose ClientApps start at once, since the libraries they need are loaded once."""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import sys
import time
from collections.abc import Sequence

from fl2ora.engines.private_superlink import stop, tool
from fl2ora.experiment.errors import UserError

_PORT, _HOST = "9094", "127.0.0.1"  # as flower-supernode has them
_LOOK_SECONDS = 0.2
_REFUSED = ("--isolation", "--ssl-certfile", "--ssl-keyfile", "--ssl-ca-certfile")


def run_warm_node(options: Sequence[str]) -> int:
    """Run ``flower-supernode`` with a worker of ours beside it, until it ends.

    Args:
        options: of ``flower-supernode``.

    Returns:
        Its exit code; 0 where it is stopped by a signal, as it ends then without this command.

    Raises:
        UserError: an option that the worker cannot do with.
    """
    address = runtime_address(options)
    command = [tool("flower-supernode"), "--isolation", "process", *options]
    with contextlib.ExitStack() as stack:
        node = subprocess.Popen(command)
        stack.callback(stop, node)
        worker = _start_worker(address)
        stack.callback(lambda: stop(worker))
        try:
            while (code := node.poll()) is None:
                if worker.poll() is not None:  # killed, for want of memory perhaps
                    worker = _start_worker(address)
                time.sleep(_LOOK_SECONDS)
        except KeyboardInterrupt:  # SIGTERM too, see ``commands/app.py``
            return 0
        return code


def runtime_address(options: Sequence[str]) -> str:
    """Return where a SuperNode with these options answers its worker.

    >>> runtime_address(["--insecure", "--port", "9095"]), runtime_address(["--host=::1"])
    ('127.0.0.1:9095', '[::1]:9094')

    Raises:
        UserError: an option that the worker cannot do with.
    """
    values = {"--host": _HOST, "--port": _PORT}
    for option, following in zip(options, [*options[1:], ""], strict=False):
        name, sign, value = option.partition("=")
        if name in _REFUSED:
            raise UserError(
                f"{name}: fl2ora node run has a worker of its own on this machine's loopback; "
                "expected other options of flower-supernode"
            )
        if name in values:
            values[name] = value if sign else following
    host = values["--host"]
    return f"[{host}]:{values['--port']}" if ":" in host else f"{host}:{values['--port']}"


def _start_worker(address: str) -> subprocess.Popen[bytes]:
    # By its path, and without its folder on the import path: see there.
    found = importlib.util.find_spec("fl2ora.engines.warm_worker")
    if found is None or found.origin is None:
        raise UserError("fl2ora.engines.warm_worker: expected beside the other engines, found none")
    return subprocess.Popen([sys.executable, "-P", found.origin, address])
