"""The pages written from the code are up to date, complete, and say what the code does."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from documented import ROOT
from fl2ora.commands.app import cli
from fl2ora.commands.reference.docstrings import arguments_of, text_of
from fl2ora.commands.reference.pages import pages, write_all
from fl2ora.commands.reference.specs import KINDS, Kind, overview, page, spec_of
from fl2ora.experiment.plugins import load

FOLDER = ROOT / "docs" / "reference"
PAGES = pages()
BY_TITLE = {kind.title: kind for kind in KINDS}


def test_the_files_are_those_the_code_writes() -> None:
    found = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()}
    assert found == PAGES, "run make config"


def test_pages_are_written_into_a_folder(tmp_path: Path) -> None:
    write_all(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(PAGES)


def test_there_is_a_page_for_every_base_class_that_files_are_found_by() -> None:
    table = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    bases = set(re.findall(r"^\| .* \| `[\w.]+\.([A-Z]\w+)` \| ", table, re.MULTILINE))
    assert {kind.base.__name__ for kind in KINDS} - {"Attack"} == bases - {"ClientRule"}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.title)
def test_every_argument_of_every_plug_in_is_described(kind: Kind) -> None:
    for name, cls in kind.classes().items():
        said = arguments_of(cls)
        for argument in inspect.signature(cls).parameters:
            assert len(said.get(argument, "")) > 5, f"{kind.title}: {name}: {argument}"
        assert text_of(vars(cls)["__doc__"]), name


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.title)
def test_specs_that_need_no_argument_can_be_given_as_the_page_prints_them(kind: Kind) -> None:
    specs = re.findall(r"^```text\n(.*)\n```$", page(kind), re.MULTILINE)
    names = re.findall(r"^## (\w+)$", page(kind), re.MULTILINE)
    assert [spec.partition("(")[0] for spec in specs] == names == list(kind.classes())
    for spec in specs:
        if "=..." not in spec and kind.title not in ("Data sets", "Callbacks"):  # read files
            load(spec, kind.base)


def test_a_page_says_of_a_plug_in_what_its_file_says() -> None:
    text = page(BY_TITLE["Strategies"])
    section = text.partition("\n## fedprox\n")[2].partition("\n## ")[0]
    assert section.strip().splitlines() == [
        "```text",
        "fedprox(mu=0.1, weighting='examples')",
        "```",
        "",
        "**FedProx: FedAvg whose clients are held near the adapter they started from.**",
        "",
        "Clients minimise `L_k + mu/2 |theta - theta_t|^2`; the server takes the mean.",
        "",
        "Li et al. 2018, arXiv 1812.06127.",
        "",
        "- `mu` = `0.1`: weight of the proximal term, at least 0; 0 is FedAvg.",
        "- `weighting` = `'examples'`: `examples` or `uniform`.",
    ]
    assert "- `partitioner`: " in page(BY_TITLE["Partitions"])  # it has no default
    assert "[`fedprox`](strategies.md#fedprox): FedProx: FedAvg whose" in overview()


def test_arguments_are_those_of_the_nearest_docstring() -> None:
    class Base:
        """A base.

        Args:
            a: of the base.
            *rest: more of it,
                on two lines.

        Raises:
            ValueError: never.
        """

        def __init__(self, a: int, b: str = "x", *rest: int) -> None:
            pass

    class Derived(Base):
        """No ``code``.

        Args:
            a: of the derived ``one``.
        """

    said = {"a": "of the derived `one`.", "rest": "more of it, on two lines."}
    assert arguments_of(Derived) == said
    assert text_of(Derived.__doc__) == "No `code`."
    assert spec_of("derived", Derived) == "derived(a=..., b='x', rest=...)"


COMMANDS = [
    words.split() for words in re.findall(r"^## fl2ora (.*)$", PAGES["command-line.md"], re.M)
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_command_line_has_the_options_that_help_prints(words: list[str]) -> None:
    section = PAGES["command-line.md"].partition(f"\n## fl2ora {' '.join(words)}\n")[2]
    section = section.partition("\n## ")[0]
    shown = CliRunner().invoke(cli, [*words, "--help"], env={"COLUMNS": "200"}).stdout
    listed = set(re.findall(r"(?<![\w-])(--[a-z-]+)", "\n".join(section.split("\n- `")[1:])))
    helped = set(re.findall(r"^│\s+\*?\s*(--[a-z-]+)", shown, re.MULTILINE)) - {"--help"}
    assert helped <= listed
    assert ("[OPTIONS]" in section) == bool(shown)


def test_no_command_is_left_out() -> None:
    shown = CliRunner().invoke(cli, ["--help"], env={"COLUMNS": "200"}).stdout
    names = set(re.findall(r"^│ ([a-z]+) ", shown, re.MULTILINE))
    assert names == {words[0] for words in COMMANDS}
    assert ["node", "run"] in COMMANDS


def test_an_argument_without_a_word_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        """Says nothing."""

        def __init__(self, secret: int = 3) -> None:
            pass

    monkeypatch.setattr(Kind, "classes", lambda self: {"silent": Silent})
    with pytest.raises(ValueError, match="Silent: expected secret under Args:, found none"):
        page(BY_TITLE["Losses"])
