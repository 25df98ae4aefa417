"""All pages that are written from the code, by file name."""

from __future__ import annotations

from pathlib import Path

from fl2ora.commands.reference import command_line, specs


def pages() -> dict[str, str]:
    """Return the text of each file of ``docs/reference`` that is written from the code."""
    return {
        "plug-ins.md": specs.overview(),
        **{kind.file: specs.page(kind) for kind in specs.KINDS},
        "command-line.md": command_line.page(),
    }


def write_all(folder: Path) -> None:
    """Write them into a folder."""
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")
