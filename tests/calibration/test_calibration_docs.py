import doctest
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "calibration.md"


def test_the_examples_on_the_page_run_as_printed():
    results = doctest.testfile(str(PAGE), module_relative=False)
    assert results.attempted > 10
    assert results.failed == 0
