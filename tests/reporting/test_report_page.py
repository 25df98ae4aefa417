"""The report: one file that needs no other, everything escaped, and alive in a real browser."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from finished_runs import finished_run, finished_sweep
from fl2ora.calibration.metrics.table import chosen_metrics
from fl2ora.reporting.against_baseline import against_baseline
from fl2ora.reporting.collected_runs import collect
from fl2ora.reporting.comparison import summarised, target_from
from fl2ora.reporting.comparison_figures import heat_map, scatter, svg
from fl2ora.reporting.report import PAGE_FILE, write_report
from fl2ora.reporting.report_sentences import run_sentences, sweep_sentences

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
VOID = {"meta", "link", "input", "br", "img"}


class Elements(HTMLParser):
    """Notes every element and checks that each is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "action", "data"):
                self.links.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = finished_sweep(tmp_path_factory.mktemp("sweeps") / "grid <b>&")
    write_report(collect([root]), root / "report", {}, target_from("accuracy=0.5"))
    return root / "report"


def parsed(page: Path) -> Elements:
    found = Elements()
    found.feed(page.read_text(encoding="utf-8"))
    assert found.open == []
    return found


def test_the_page_needs_nothing_but_itself(report: Path) -> None:
    page = parsed(report / PAGE_FILE)
    assert all(link.startswith("#") for link in page.links)
    assert len(page.ids) == len(set(page.ids)), "ids of the figures do not clash"
    text = (report / PAGE_FILE).read_text(encoding="utf-8")
    assert "@import" not in text
    assert not re.findall(r"url\((?!#)", text)
    for link in page.links:
        assert link[1:] in page.ids
    outside = set(re.findall(r"https?://[^\s\"<]+", text))
    assert all("w3.org" in x or "purl.org" in x or "creativecommons" in x for x in outside)


def test_every_text_is_escaped(report: Path) -> None:
    text = (report / PAGE_FILE).read_text(encoding="utf-8")
    assert "<h1>grid &lt;b&gt;&amp;</h1>" in text
    assert "seed 0: a &lt;reason&gt; &amp; more" in text
    assert "a <reason>" not in text


def test_tables_figures_and_settings_are_on_the_page_and_beside_it(report: Path) -> None:
    text = (report / PAGE_FILE).read_text(encoding="utf-8")
    assert text.count("<svg") == 5
    assert text.count("<table") == 3, "summary, tests and the choices"
    assert "0.1: 1.2500" in text
    assert "0.3: failed" in text
    assert "batch-size = 32" in text
    names = {path.name for path in report.iterdir()}
    stems = ("accuracy-ece", "reliability", "curves", "bytes-ece", "grid")
    assert names == {
        PAGE_FILE, "summary.md", "summary.tex", "summary.csv", "summary-baseline.csv",
        "summary.parquet", "summary-baseline.parquet",
        *(f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")),
    }  # fmt: skip
    assert len(pd.read_csv(report / "summary-baseline.csv")) == 4


def test_a_report_that_is_made_again_is_the_same(report: Path, tmp_path: Path) -> None:
    write_report(collect([report.parent]), tmp_path, {}, target_from("accuracy=0.5"))
    for path in report.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_the_sentences_of_a_run_say_what_changed(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "a", sharpness=3.0)
    first, second = run_sentences(collect([run]).runs[0], "server-test")
    assert re.fullmatch(r"Accuracy .* went from \d+\.\d % \(zero-shot\) to \d+\.\d %\.", first)
    assert re.search(r"was overconfident by 39\.8 points before", second)
    assert (
        "It is better calibrated, by more than chance (p < 0.001, on the same 240 images)" in second
    )
    worse = finished_run(tmp_path / "b", sharpness=60.0, noise=1.2)
    _, second = run_sentences(collect([worse]).runs[0], "server-test")
    assert "worse calibrated" in second or "may be chance" in second
    no_logits = finished_run(tmp_path / "c", saved=False)
    _, second = run_sentences(collect([no_logits]).runs[0], "server-test")
    assert "the logits are not there" in second


def test_the_sentences_of_a_sweep_name_the_best(report: Path) -> None:
    collection = collect([report.parent])
    summary = summarised(collection, chosen_metrics("default"), "server-test")
    tests, _ = against_baseline(collection, {}, "server-test")
    text = " ".join(sweep_sentences(collection, summary, tests))
    best = summary.loc[summary["accuracy"].idxmax()]
    assert f"The highest accuracy, {100 * best['accuracy']:.1f} ±" in text
    assert f"has method={best['method']}, loss={best['loss']}." in text
    assert "4 settings were compared, each with 2 to 3 seeds." in text
    assert "Of 4 settings compared with zero-shot, " in text


def test_a_single_run_has_its_rounds_and_its_reliability(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "one")
    page = write_report(collect([run]), run / "report", {})
    text = page.read_text(encoding="utf-8")
    assert "after each round" in text
    assert (run / "report" / "reliability.svg").is_file()
    parsed(page)


def test_a_grid_is_drawn_where_there_are_two_axes(report: Path) -> None:
    collection = collect([report.parent])
    assert heat_map(collection.groups(), collection.axes, "server-test") is not None
    one = {labels: runs for labels, runs in collection.groups().items() if labels[0] == "lora"}
    assert heat_map(one, collection.axes, "server-test") is None


def test_ids_of_a_figure_begin_as_asked(report: Path) -> None:
    collection = collect([report.parent])
    text = svg(*scatter(collection.groups(), collection.axes, "server-test"), "f7")
    assert text.startswith("<svg")
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert ids
    assert all(name.startswith("f7-") for name in ids)
    assert all(
        name in ids for name in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text)[0] if name
    )


# Clicks and types as a person does, then writes what is to be seen into the page.
ACTS = """
<script>
const table = document.querySelector("table"), out = [];
const shown = () => [...table.tBodies[0].rows].filter((row) => !row.hidden);
const column = (n) => shown().map((row) => row.cells[n].textContent);
const button = table.tHead.rows[0].cells[3].firstElementChild;
button.click(); out.push("UP " + column(3).join(";"));
button.click(); out.push("DOWN " + column(3).join(";"));
const field = document.querySelector("input[data-filters]");
field.value = "BITFIT dca"; field.dispatchEvent(new Event("input"));
out.push("FILTER " + column(0).join(";") + " " + document.querySelector(".count").textContent);
out.push("WIDTH " + (document.documentElement.scrollWidth <= window.innerWidth));
out.push("WINDOW " + window.innerWidth);
out.push("COLOUR " + getComputedStyle(document.body).backgroundColor);
const outside = window.parent.document;
outside.body.insertAdjacentHTML("beforeend", "<pre id='seen'></pre>");
outside.getElementById("seen").textContent = out.join("\\n");
</script>
"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium: apt-get install chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_sorts_filters_and_fits_the_page(
    report: Path, tmp_path: Path, width: int
) -> None:
    page = tmp_path / "page.html"
    text = (report / PAGE_FILE).read_text(encoding="utf-8")
    text = html.escape(text.replace("</body>", f"{ACTS}</body>"))
    # In a frame, since a window of a browser without a screen is never as narrow as a phone.
    frame = f'<iframe style="width:{width}px;height:800px;border:0" srcdoc="{text}"></iframe>'
    page.write_text(f'<meta charset="utf-8"><body>{frame}</body>', encoding="utf-8")
    done = subprocess.run(
        [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,900",
         f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    seen = done.stdout.partition('<pre id="seen">')[2].partition("</pre>")[0]
    lines = dict(line.split(" ", 1) for line in seen.splitlines())
    up = [float(cell.split()[0]) for cell in lines["UP"].split(";")]
    assert len(up) == 5
    assert up == sorted(up)
    assert [float(c.split()[0]) for c in lines["DOWN"].split(";")] == sorted(up, reverse=True)
    assert lines["FILTER"] == "bitfit 1 of 5"
    assert int(lines["WINDOW"]) == width
    assert lines["WIDTH"] == "true", "the page itself is never scrolled sideways"
    assert lines["COLOUR"] == "rgb(255, 255, 255)"
