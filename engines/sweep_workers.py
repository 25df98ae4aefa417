"""The worker processes of a sweep: how many, what each may use, and who gets which run."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from fl2ora.engines.endings import cause_of
from fl2ora.engines.sweep_cells import Job
from fl2ora.experiment.machine import at_once

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from fl2ora.engines.sweep_worker import serve; serve()"
)


@dataclass(frozen=True)
class Ended:
    """A job that has ended.

    Attributes:
        job: which.
        reason: why it failed, or empty.
        seconds: how long it took.
    """

    job: Job
    reason: str
    seconds: float


def workers_for(jobs: Sequence[Job], total: int, wanted: int) -> int:
    """Return how many workers ``total`` runs get: as many as wanted, or as this machine allows.

    On the CPU each has the threads of its run to itself, and 1.5 GiB of memory; with CUDA devices
    there is one worker for each of them.
    """
    most = max(1, total)
    if not wanted and _on_cuda(jobs):
        return min(len(_devices()), most)
    return at_once(wanted, max((job.config.threads for job in jobs), default=1), most)


def _on_cuda(jobs: Sequence[Job]) -> bool:
    return bool(_devices()) and any(job.config.device in ("auto", "cuda") for job in jobs)


def _devices() -> list[str]:
    """Return the CUDA devices this process sees, as ``CUDA_VISIBLE_DEVICES`` names them."""
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return named[:count] if len(named) >= count and named[0] else [str(n) for n in range(count)]


class _Worker:
    """One process, the job it is at, and the thread that hears from it."""

    def __init__(self, number: int, logs: Path, lock: int | None, news: queue.Queue[Any]) -> None:
        self._number, self._logs, self._lock, self._news = number, logs, lock, news
        self._process: subprocess.Popen[str] | None = None
        self._hearing = threading.Thread()
        self.job: Job | None = None

    def give(self, job: Job) -> None:
        """Start a job, in the process of the last one if that is still alive."""
        if self._process is None:
            self._process = self._start(job.config.threads)
        self.job = job
        task = {
            "settings": job.config.flat(), "clients": job.clients, "folder": str(job.folder),
        }  # fmt: skip
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(OSError):  # it has just died, which its thread tells
            stdin.write(json.dumps(task) + "\n")
            stdin.flush()

    def buried(self) -> str:
        """Take leave of a process that died; return what it died of."""
        assert self._process is not None
        code = self._process.wait()
        self._close()
        log = self._logs / f"worker-{self._number}.log"
        return f"its process ended with {cause_of(code)}; see {log}"

    def stop(self) -> None:
        """End the process, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._close()

    def _close(self) -> None:
        """Close what leads to a process that has ended; its thread closes the other end."""
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # what was never read
            self._process.stdin.close()
        self._hearing.join()
        self._process = None

    def _start(self, threads: int) -> subprocess.Popen[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        if devices := _devices():
            environment["CUDA_VISIBLE_DEVICES"] = devices[self._number % len(devices)]
        with (self._logs / f"worker-{self._number}.log").open("a", encoding="utf-8") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                text=True,
                pass_fds=() if self._lock is None else (self._lock,),
            )
        assert process.stdout is not None
        self._hearing = threading.Thread(target=self._hear, args=(process.stdout,), daemon=True)
        self._hearing.start()
        return process

    def _hear(self, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                self._news.put((self, json.loads(line)))
        self._news.put((self, None))


class Workers:
    """Runs jobs in worker processes; leaving the ``with`` block ends them.

    Args:
        count: of processes.
        logs: folder of their logs, which exists.
        lock: descriptor that each keeps open, or None.
    """

    def __init__(self, count: int, logs: Path, lock: int | None) -> None:
        self._news: queue.Queue[Any] = queue.Queue()
        self._workers = [_Worker(n, logs, lock, self._news) for n in range(count)]

    def __enter__(self) -> Workers:
        """Return itself; a process starts with its first job."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.stop()

    @property
    def at_work(self) -> list[Job]:
        """The jobs that are being done."""
        return [worker.job for worker in self._workers if worker.job is not None]

    def run(self, jobs: Sequence[Job], pause: float) -> Iterator[Ended | None]:
        """Do all jobs; yield each when it has ended, and None after every ``pause`` seconds.

        A worker gets a job of the model and data that it has loaded, as long as there is one. What
        a worker that dies was doing has failed; another takes its place.
        """
        waiting = list(jobs)
        last: dict[_Worker, tuple[str, ...]] = {}
        while waiting or self.at_work:
            for worker in self._workers:
                if worker.job is None and waiting:
                    job = _next(waiting, last.get(worker), set(last.values()))
                    waiting.remove(job)
                    last[worker] = _loads(job)
                    worker.give(job)
            try:
                worker, answer = self._news.get(timeout=pause)
            except queue.Empty:
                yield None
                continue
            job, worker.job = worker.job, None
            reason = worker.buried() if answer is None else str(answer["reason"])
            if job is not None:
                yield Ended(job, reason, answer["seconds"] if answer else 0.0)


def _loads(job: Job) -> tuple[str, ...]:
    """Return what a worker keeps between jobs that have it in common."""
    config = job.config
    return config.model, config.dataset, config.protocol


def _next(waiting: Sequence[Job], has: tuple[str, ...] | None, taken: set[tuple[str, ...]]) -> Job:
    """Return a job of what a worker has loaded, else of what no other has, else the first."""
    same = [job for job in waiting if _loads(job) == has]
    new = [job for job in waiting if _loads(job) not in taken]
    return (same or new or list(waiting))[0]
