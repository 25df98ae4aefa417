"""One HTML file that holds everything it shows: no network, no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fl2ora.reporting.comparison_text import TextTable

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class PageFigure:
    """A figure on the page.

    Attributes:
        title: above it.
        caption: below it.
        svg: an ``<svg>`` element, which stands there as it is.
    """

    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Page:
    """What a page shows; every text is escaped.

    Attributes:
        title: of the run or the sweep.
        sentences: on top, in plain words.
        notes: what is missing or odd.
        tables: sortable, and filterable where they are long.
        figures: below the tables.
        folded: texts by heading, such as settings, which open on a click.
        glossary: what the columns mean.
        footer: code and libraries.
    """

    title: str
    sentences: Sequence[str]
    notes: Sequence[str]
    tables: Sequence[TextTable]
    figures: Sequence[PageFigure]
    folded: Mapping[str, str]
    glossary: Mapping[str, str]
    footer: str

    def html(self) -> str:
        """Return the whole file."""
        environment = Environment(
            loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined
        )
        style, script = (_own(name) for name in ("page.css", "page.js"))
        template = environment.get_template("page.html")
        return template.render(**vars(self), style=style, script=script)


def _own(name: str) -> object:
    """Return a file of ours, which is not escaped."""
    from markupsafe import Markup

    return Markup((_HERE / name).read_text(encoding="utf-8"))
