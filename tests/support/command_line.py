"""``fl2ora`` as a person types it, or other code, in a process of its own.

The process is forked from one that has loaded torch and the other libraries, which takes several
seconds of the processor; tests/integration/test_wheel.py starts a command from nothing.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from benchmarks.kill_anywhere import forkserver

FL2ORA = "from fl2ora.commands.app import main; main()\n"
_MOST_SECONDS = 600


@dataclass(frozen=True)
class Done:
    """What a command said, and the exit code it ended with."""

    returncode: int
    stdout: str
    stderr: str


class Command:
    """A command at work.

    Args:
        cwd: the folder it is typed in.
        arguments: after ``fl2ora``.
        largest_file: bytes that one file of it may have; None: any number.
        code: that is run, which finds the arguments in ``sys.argv``.
    """

    def __init__(
        self,
        cwd: Path,
        *arguments: str,
        largest_file: int | None = None,
        code: str = FL2ORA,
    ) -> None:
        self._said = Path(tempfile.mkdtemp(prefix="fl2ora-said-"))
        variables = {**os.environ, "COLUMNS": "200"}
        variables.pop("FL2ORA_OUTPUT_DIR", None)
        self.process: ForkServerProcess = forkserver().Process(
            target=_run, args=(code, cwd, arguments, variables, self._said, largest_file)
        )
        self.process.start()

    def running(self) -> bool:
        """Return whether it is still at work."""
        return self.process.is_alive()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def wait(self) -> Done:
        """Wait for its end."""
        self.process.join(_MOST_SECONDS)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f"not ended after {_MOST_SECONDS} s: {self._text('err')}")
        done = Done(self.process.exitcode, self._text("out"), self._text("err"))
        shutil.rmtree(self._said)
        return done

    def _text(self, name: str) -> str:
        path = self._said / name
        return path.read_text(encoding="utf-8") if path.exists() else ""


def fl2ora(cwd: Path, *arguments: str, largest_file: int | None = None) -> Done:
    """Run a command to its end; arguments as for ``Command``."""
    return Command(cwd, *arguments, largest_file=largest_file).wait()


def imported_from(folder: Path) -> str:
    """Return code after which ``fl2ora`` is the one in another folder."""
    return (
        "import sys\n"
        "for name in [n for n in sys.modules if n.partition('.')[0] == 'fl2ora']:\n"
        "    del sys.modules[name]\n"
        f"sys.path.insert(0, {str(folder)!r})\n"
    )


def _run(
    code: str,
    cwd: Path,
    arguments: tuple[str, ...],
    variables: dict[str, str],
    said: Path,
    largest_file: int | None,
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(variables)
    for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        stream.flush()
        with (said / name).open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    sys.argv = ["fl2ora", *arguments]
    exec(code, {"__name__": "__main__"})
