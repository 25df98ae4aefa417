"""Code blocks and commands of the documentation, and what it takes to try them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`((?:fl2ora \w+|python -m|python|pytest|pip install) [^`]+)`")
_FILE = re.compile(r"# ([\w./-]+\.(?:py|toml))\n")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: name of the page, such as ``strategies.md``.
        line: of its first line, from 1.
        language: ``bash``, ``python``, ``toml``, ``diff``, or empty.
        text: what is inside.
    """

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str:
        """The file it is to be saved as, which its first line names as a comment, or empty."""
        found = _FILE.match(self.text)
        return found.group(1) if found else ""


@dataclass(frozen=True)
class Command:
    """One command line, its continuation lines joined."""

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line} {self.text[:60]}"

    @property
    def words(self) -> list[str]:
        """The arguments as a shell would pass them."""
        return shlex.split(self.text, comments=True)


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page.name, text.count("\n", 0, m.start()) + 2, m.group(1), m.group(2))
        for m in _BLOCK.finditer(text)
    ]


def commands(page: Path) -> list[Command]:
    """Return the commands in a page's bash blocks, and those that stand within its sentences."""
    found = [c for block in blocks(page) if block.language == "bash" for c in _lines(block)]
    prose = _BLOCK.sub(lambda m: "\n" * m.group().count("\n"), page.read_text(encoding="utf-8"))
    for match in _SPAN.finditer(prose):
        line = prose.count("\n", 0, match.start()) + 1
        found.append(Command(page.name, line, " ".join(match.group(1).split())))
    return sorted(found, key=lambda command: command.line)


def _lines(block: Block) -> Iterator[Command]:
    text, start = "", block.line
    for number, line in enumerate(block.text.splitlines(), block.line):
        text, start = text + line.rstrip("\\"), start if text else number
        if line.endswith("\\"):
            continue
        if text.strip() and not text.lstrip().startswith("#"):
            yield Command(block.page, start, text.strip())
        text = ""


def save_files(page: Path, folder: Path, before: int | None = None) -> list[Path]:
    """Save the files that a page shows, those above line ``before`` alone where it is given."""
    saved = []
    for block in blocks(page):
        if block.file and (before is None or block.line < before):
            path = folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
            saved.append(path)
    return saved


def patched(block: Block, read: str) -> str:
    """Return a file's text after a ``diff`` block was applied to it.

    The block has no line numbers: within a hunk (hunks are set apart by ``@@``), the lines that
    begin with a space or a minus must stand in the file once, next to each other.
    """
    for hunk in re.split(r"^@@.*\n", block.text, flags=re.MULTILINE)[1:]:
        lines = hunk.splitlines()
        old = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("+"))
        new = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("-"))
        if read.count(old) != 1:
            raise AssertionError(f"{block}: stands {read.count(old)} times in the file:\n{old}")
        read = read.replace(old, new)
    return read


def patched_file(block: Block) -> str:
    """Return the path of the file that a ``diff`` block changes, from the repository's root."""
    found = re.match(r"--- (\S+)\n", block.text)
    assert found, f"{block}: expected a first line '--- path/of/the/file.py'"
    return found.group(1)
