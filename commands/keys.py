"""``fl2ora keys``: every key of a run, its default and what it may be."""

from __future__ import annotations

import textwrap
from typing import Annotated

import typer

from fl2ora.experiment.config import RunConfig, key_of
from fl2ora.experiment.errors import UserError, nearest
from fl2ora.experiment.flower_table import toml_value


def keys(
    words: Annotated[list[str] | None, typer.Argument(metavar="[WORD]...")] = None,
) -> None:
    """List the keys of a run: their defaults, and what each may be.

    With a WORD, only keys that hold it are listed. The output is TOML: save it, change it and give
    it to 'fl2ora run'.
    """
    chosen = {
        name: field
        for name, field in RunConfig.model_fields.items()
        if not words or any(word in key_of(name) for word in words)
    }
    if not chosen:
        sought = ", ".join(map(repr, words or []))
        valid = [key_of(name) for name in RunConfig.model_fields]
        raise UserError(f"no key has {sought} in its name{nearest((words or [''])[0], valid)}")
    titles = {}
    title: str | None = ""
    for name, field in RunConfig.model_fields.items():
        title = titles[name] = field.title or title
    previous: str | None = ""
    for name, field in chosen.items():
        if titles[name] != previous:
            print(f"\n## {titles[name]}" if previous else f"## {titles[name]}")
            previous = titles[name]
        print(textwrap.fill(f"# {field.description}", 100, subsequent_indent="# "))
        print(f"{key_of(name)} = {toml_value(field.default)}")
