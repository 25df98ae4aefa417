"""A process that makes one run after another and keeps what it loaded between them.

Jobs come as JSON lines on the standard input, and an answer for each goes to the standard output.
When the input ends the process ends at once, so that no worker outlives its sweep.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path
from typing import Any, TextIO

_ORPHAN = 3  # exit code


def serve() -> None:
    """Answer jobs until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the sweep, which ends its workers
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes to the log
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    jobs: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    while True:
        _say(answers, _done(jobs.get()))


def _listen(jobs: queue.Queue[dict[str, Any]]) -> None:
    """Take jobs as they come; the end of them is the end of this process, whatever it does."""
    for line in sys.stdin:
        jobs.put(json.loads(line))
    os._exit(_ORPHAN)


def _done(job: dict[str, Any]) -> dict[str, Any]:
    """Make one run; return how it went."""
    from rich.console import Console

    from fl2ora.engines.in_process import run_in_process
    from fl2ora.experiment.config import RunConfig
    from fl2ora.experiment.errors import UserError

    started, reason = time.monotonic(), ""
    logging.getLogger("flwr").setLevel(logging.WARNING)
    folder = Path(job["folder"])
    print(f"--- {folder.name}", file=sys.stderr, flush=True)
    try:
        config = RunConfig.from_flat(job["settings"])
        run_in_process(config, job["clients"], folder, Console(quiet=True))
    except UserError as error:
        reason = str(error)
    except Exception as error:
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"
    return {
        "folder": job["folder"],
        "seconds": time.monotonic() - started,
        "reason": reason,
    }


def _say(answers: TextIO, answer: dict[str, Any]) -> None:
    try:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    except BrokenPipeError:
        os._exit(_ORPHAN)
