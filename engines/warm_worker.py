"""Answers a SuperNode's messages in processes forked from one that has loaded the libraries.

A script, started by its path with the address of a SuperNode's Runtime API: nothing of fl2ora is
imported here, so that each message runs the code of its own bundle in a process of its own, as
under Flower's SuperExec. That one starts ``flwr-clientapp`` anew for each message, which spends
seconds on importing torch and transformers; here they are there already.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import time

import httpx
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import run_clientapp

_LIBRARIES = (
    "numpy", "scipy.optimize", "PIL.Image", "pydantic", "torch", "safetensors.torch",
    "transformers.models.clip.modeling_clip", "transformers.models.siglip.modeling_siglip",
    "transformers.models.auto.tokenization_auto", "peft",
)  # fmt: skip
_POLL_SECONDS, _WAIT_SECONDS = 0.1, 0.02


def main() -> None:
    """Serve until the process that started this one is gone."""
    address, parent = sys.argv[1], os.getppid()
    # Else asking torch whether there is a GPU would spoil it for the forked processes.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    for name in _LIBRARIES:
        with contextlib.suppress(ImportError):  # the bundle says what it misses
            importlib.import_module(name)
    client = RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec")],
    )
    while os.getppid() == parent:
        token = _next_token(client)
        if token:
            _answer(address, token, parent)
        else:
            time.sleep(_POLL_SECONDS)


def _next_token(client: RuntimeHttpClient) -> str:
    """Return the token of a task that waits, or nothing."""
    request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
    try:
        response = client.AcquireTask(request)
    except httpx.HTTPError:  # the SuperNode is not there yet, or no longer
        time.sleep(1)
        return ""
    return str(response.token) if response.HasField("task") else ""


def _answer(address: str, token: str, parent: int) -> None:
    """Execute one task in a process of its own, and wait for its end."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run_clientapp(address, token, insecure=True, parent_pid=os.getppid())
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            os._exit(code)
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if os.getppid() != parent:
            os.kill(child, signal.SIGTERM)
        time.sleep(_WAIT_SECONDS)


if __name__ == "__main__":
    main()
