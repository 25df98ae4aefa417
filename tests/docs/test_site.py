"""The documentation builds as a site without a warning, and asks nothing of any other host."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fl2ora
import fl2ora.calibration
from documented import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build it; links to pages, files and anchors that are not there are errors."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def text_of(site: Path, page: str) -> str:
    return (site / f"{page}.html").read_text(encoding="utf-8")


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    pages = "".join(text_of(site, f"api/{path.stem}") for path in (ROOT / "docs/api").iterdir())
    calibration = set(fl2ora.calibration.__all__)
    names = [f"fl2ora.{name}" for name in set(fl2ora.__all__) - calibration - {"__version__"}]
    names += [f"fl2ora.calibration.{name}" for name in calibration]
    assert not [name for name in names if f'id="{name}"' not in pages]


def test_examples_of_docstrings_are_code(site: Path) -> None:
    page = text_of(site, "api/calibration-toolkit")
    assert page.count('<span class="gp">&gt;&gt;&gt; </span>') > 15
    assert "&gt;&gt;&gt;" not in re.sub(r"<code>.*?</code>", "", page, flags=re.DOTALL)


def test_nothing_is_fetched_from_another_host(site: Path) -> None:
    html = [path.read_text(encoding="utf-8") for path in site.rglob("*.html")]
    assert len(html) > 40
    loaded = (
        r'<(?:script|img|iframe|source)\b[^>]*\bsrc="(https?:)?//|<link\b[^>]*href="(https?:)?//'
    )
    for page in html:
        assert not re.search(loaded, page)
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(\W?https?:|@import", path.read_text(encoding="utf-8")), path


def test_what_pages_link_to_is_there_and_what_builds_them_is_not(site: Path) -> None:
    for name in ("deploy/systemd/superlink.service", "examples/emoji.py", "notebook.ipynb"):
        assert (site / name).is_file(), name
    assert 'href="deploy/nodes/site.env"' in text_of(site, "deployment")
    assert "reliability" in text_of(site, "notebook")
    assert "0.1.0" in text_of(site, "changelog")
    assert not list(site.glob("site_*.py"))


def test_the_search_finds_words_of_all_kinds_of_pages(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    found = {entry["location"].partition("#")[0] for entry in index["docs"]}
    assert {"ten-minutes.html", "reference/losses.html", "api/running.html"} <= found
