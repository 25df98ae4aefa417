"""The page on calibration and the docstrings: examples run as printed, the table is the code's."""

import ast
import doctest
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import fl2ora.calibration
from fl2ora.calibration.metrics.table import markdown

PAGE = Path(__file__).parents[2] / "docs" / "calibration.md"


def test_the_examples_on_the_page_run_as_printed():
    results = doctest.testfile(str(PAGE), module_relative=False)
    assert results.attempted > 25
    assert results.failed == 0


def test_the_table_of_metrics_on_the_page_is_that_of_the_code():
    head, _, rest = PAGE.read_text(encoding="utf-8").partition("-->\n")
    assert head.endswith("<!-- metrics: python -m fl2ora.calibration.metrics.table ")
    assert rest.partition("\n<!-- end of metrics -->")[0] == markdown()


def test_what_people_call_has_an_example_with_a_number():
    shown = {
        *("summarise", "summarise_pooled", "CalibrationAccumulator", "chosen_metrics", "spec_for"),
        *("ece", "mce", "adaptive_ece", "mce_equal_mass", "classwise_ece", "top_label_ece"),
        *("smooth_ece", "ks_error", "auroc", "aurc", "coverage_at_risk", "nll", "brier"),
        *("probabilities_of", "two_class_probabilities", "reliability_bins"),
    }
    without = {n for n in shown if ">>>" not in (getattr(fl2ora.calibration, n).__doc__ or "")}
    assert not without


def test_every_public_name_can_be_had_and_is_no_module():
    package = fl2ora.calibration
    assert set(package.__all__) <= set(dir(package))
    submodules = {info.name for info in pkgutil.iter_modules(package.__path__)}
    assert not submodules & set(package.__all__)  # importing the module would hide the name
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_type_checkers_see_the_public_names():
    tree = ast.parse(Path(fl2ora.calibration.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.asname: f"{node.module}.{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    homes = fl2ora.calibration._HOMES
    assert imported == {n: f"fl2ora.calibration.{home}.{n}" for n, home in homes.items()}


def test_the_package_loads_nothing_before_it_is_used():
    code = (
        "import sys, fl2ora.calibration, fl2ora.reporting.tables, fl2ora.engines.progress; "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
