"""Answers a SuperNode's messages in a process that keeps what it has loaded for the run.

A script, started by its path with the address of a SuperNode's Runtime API: nothing of fl2ora is
imported here, so that a run's messages are answered by the code of its own bundle. Flower's
SuperExec starts ``flwr-clientapp`` anew for each message, which spends seconds on importing torch
and transformers, and on loading the model and the images. Here each run has a process of its own,
forked from one that has imported the libraries. It answers one message after the other, as an actor
of Flower's simulation does, and ends when another run has one, when one has failed, or when none
came for a while: nothing of one run is ever there in another.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
import time
from logging import ERROR

import httpx
from flwr.app import Context, Error, Message
from flwr.cli.install import install_from_fab
from flwr.clientapp import ClientApp
from flwr.clientapp.client_app import LoadClientAppError
from flwr.clientapp.utils import get_load_client_app_fn
from flwr.common.constant import ErrorCode, SubStatus
from flwr.common.serde import context_from_proto, fab_from_proto, run_from_proto
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullAppMessagesRequest, PullTaskInputRequest
from flwr.supercore import log
from flwr.supercore.app_utils import start_parent_process_monitor
from flwr.supercore.constant import TaskType
from flwr.supercore.exit import register_signal_handlers
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    pull_and_inflate_object_from_tree,
    pull_objects,
)
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.run import Run
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.supercore.telemetry import EventType
from flwr.supernode.runtime.run_clientapp import push_message, push_task_output

_LIBRARIES = (
    "numpy", "scipy.optimize", "PIL.Image", "pydantic", "torch", "safetensors.torch",
    "transformers.models.clip.modeling_clip", "transformers.models.siglip.modeling_siglip",
    "transformers.models.auto.tokenization_auto", "peft",
)  # fmt: skip
_POLL_SECONDS, _WAIT_SECONDS = 0.1, 0.5
_KEEP_SECONDS = 900.0  # without a message, after which memory is given back
_DONE = b"."


def main() -> None:
    """Serve until the process that started this one is gone."""
    address, parent = sys.argv[1], os.getppid()
    # Else asking torch whether there is a GPU would spoil it for the forked processes.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    for name in _LIBRARIES:
        with contextlib.suppress(ImportError):  # the bundle says what it misses
            importlib.import_module(name)
    gc.freeze()  # what was imported is no garbage, and stays shared with the forked processes
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C goes to all processes of a terminal
        serve(address, parent)


def serve(address: str, parent: int) -> None:
    """Take one task after the other and hand it to the process of its run."""
    client = RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec")],
    )
    kept: RunProcess | None = None
    while not _gone(parent):
        run, token = _next_task(client)
        if kept and (time.monotonic() > kept.used + _KEEP_SECONDS or (token and run != kept.run)):
            kept.end()
            kept = None
        if not token:
            time.sleep(_POLL_SECONDS)
            continue
        kept = kept or RunProcess(address, run)
        if not kept.answer(token, parent):
            kept = None
    if kept:
        kept.end()


class RunProcess:
    """A process that answers the messages of one run.

    Args:
        address: of the SuperNode's Runtime API.
        run: Flower's id of the run.

    Attributes:
        used: when it answered last, by the monotonic clock.
    """

    def __init__(self, address: str, run: int) -> None:
        self.run, self.used = run, time.monotonic()
        self._ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid:
            theirs.close()
            return
        code = 1
        try:
            self._ours.close()
            _answer_all(address, theirs)
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            os._exit(code)

    def answer(self, token: str, parent: int) -> bool:
        """Have a task executed; return whether the process lives on.

        Args:
            token: of the task.
            parent: the process with which this one and the run's end.
        """
        with contextlib.suppress(OSError):  # dead already: its end is read below
            self._ours.sendall(token.encode() + b"\n")
        while not select.select([self._ours], [], [], _WAIT_SECONDS)[0]:
            if _gone(parent):
                os.kill(self.pid, signal.SIGTERM)
        said = b""
        with contextlib.suppress(OSError):
            said = self._ours.recv(1)
        self.used = time.monotonic()
        if said == _DONE:
            return True
        self.end()
        return False

    def end(self) -> None:
        """Let it end, and wait for that: it reads that there is nobody left to ask it."""
        self._ours.close()
        os.waitpid(self.pid, 0)


def _gone(parent: int) -> bool:
    return os.getppid() != parent


def _next_task(client: RuntimeHttpClient) -> tuple[int, str]:
    """Return the run and the token of a task that waits; an empty token if there is none."""
    request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
    try:
        response = client.AcquireTask(request)
    except httpx.HTTPError:  # the SuperNode is not there yet, or no longer
        time.sleep(1)
        return 0, ""
    if not response.HasField("task"):
        return 0, ""
    return int(response.task.run_id), str(response.token)


def _answer_all(address: str, tokens: socket.socket) -> None:
    """Execute the tasks of one run until there are no more, or one fails."""
    start_parent_process_monitor(os.getppid())
    tasks: list[Task] = []
    register_signal_handlers(  # SIGINT too: the SuperNode has stopped the task
        EventType.FLWR_CLIENTAPP_RUN_LEAVE,
        exit_message="Task stopped.",
        exit_handlers=[lambda: tasks[-1].end() if tasks else None],
    )
    with tokens.makefile(encoding="utf-8") as lines:
        app: ClientApp | None = None
        for line in lines:
            tasks[:] = [task := Task(address, line.strip())]
            app = task.execute(app)
            tasks.clear()
            if app is None:  # whatever it left behind ends with this process
                return
            _give_back()
            tokens.sendall(_DONE)


class Task:
    """One message, from the SuperNode and back; what ``flwr-clientapp`` does, without its end.

    Args:
        address: of the SuperNode's Runtime API.
        token: of the task.
    """

    def __init__(self, address: str, token: str) -> None:
        self._retry = make_simple_http_retry_invoker()
        self._client = RuntimeHttpClient.from_server_address(
            server_address=address,
            insecure=True,
            root_certificates=None,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"),
                RuntimeTokenHttpInterceptor(token),
            ],
            retry_invoker=self._retry,
        )
        self._heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(self._client))
        self._outcome = SubStatus.FAILED, "the process that executed it was told to end"
        self._context: Context | None = None

    def execute(self, app: ClientApp | None) -> ClientApp | None:
        """Answer it by ``app``, or by that of its bundle; return the app, None if it failed."""
        self._heartbeat.start()
        message: Message | None = None
        reply: Message | None = None
        try:
            self._context, run, fab = self._pull_input()
            message = self._pull_message(self._context)
            if app is None:
                install_from_fab(fab.content, skip_prompt=True)
                load = get_load_client_app_fn(default_app_ref="", app_path=None, multi_app=True)
                app = load(run.fab_id, run.fab_version, fab.hash_str)
            reply = app(message=message, context=self._context)
            self._outcome = SubStatus.COMPLETED, ""
        except Exception as error:
            app = None
            log(ERROR, "ClientApp raised an exception", exc_info=error)
            reason = f"{type(error)}:<'{error}'>"  # in Flower's form, which the server reads
            code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
            if isinstance(error, LoadClientAppError):
                code = ErrorCode.LOAD_CLIENT_APP_EXCEPTION
            self._outcome = SubStatus.FAILED, reason
            if message is not None:
                reply = Message(Error(code=code, reason=reason), reply_to=message)
        if reply is not None and self._context is not None:
            try:
                push_message(self._client, reply, self._context)
            except Exception as error:
                app = None
                log(ERROR, "Failed to push reply message", exc_info=error)
        self.end()
        return app

    def _pull_input(self) -> tuple[Context, Run, Fab]:
        pulled = self._client.PullTaskInput(PullTaskInputRequest())
        TaskIdentity.task_id, TaskIdentity.run_id = pulled.task_id, pulled.run.run_id
        TaskIdentity.node_id = pulled.context.node_id
        return (
            context_from_proto(pulled.context),
            run_from_proto(pulled.run),
            fab_from_proto(pulled.fab),
        )

    def _pull_message(self, context: Context) -> Message:
        """Fetch the message as soon as the SuperNode has it: Flower looks after 1, 2, 4 s alone."""
        trees = self._client.PullMessages(PullAppMessagesRequest()).message_object_trees
        if not trees:
            raise RuntimeError("the SuperNode has no message for this task")
        client, where = self._client, (Node(node_id=context.node_id), context.run_id)
        pull = make_pull_object_fn_protobuf(client.PullObject, *where)
        # One alone first: the SuperNode has nothing to give before it has everything.
        pull_objects(
            [trees[0].object_id],
            pull,
            max_tries_per_object=None,
            initial_backoff=_POLL_SECONDS,
            backoff_cap=_POLL_SECONDS,
        )
        message = pull_and_inflate_object_from_tree(
            trees[0],
            pull,
            make_confirm_message_received_fn_protobuf(client.ConfirmMessageReceived, *where),
            return_type=Message,
            initial_backoff=_POLL_SECONDS,
            backoff_cap=_POLL_SECONDS,
        )
        message.metadata.__dict__["_message_id"] = trees[0].object_id
        return message

    def end(self) -> None:
        """Tell the SuperNode how it went; no heartbeat may follow, which it would refuse."""
        self._retry.max_tries = 1
        if self._heartbeat.is_running:
            self._heartbeat.stop()
        outcome, details = self._outcome
        push_task_output(self._client, self._context, outcome, details)
        self._client.close()


def _give_back() -> None:
    """Let others have the memory that nothing holds, the GPU's too."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
