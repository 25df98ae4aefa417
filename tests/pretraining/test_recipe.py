"""Recipes of small CLIPs: their defaults, their numbers, and every mistake at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from fl2ora.clip_tuning.architecture import Architecture
from fl2ora.experiment.errors import ConfigError, UserError
from fl2ora.pretraining.recipe import read_recipe, recipe_of

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def test_a_batch_is_what_the_shares_say() -> None:
    recipe = recipe_of({"drawings": 0.25, "clothes": 0.5, "captioned": "x", "batch-size": 10})
    assert recipe.counts() == (2, 5, 3)


@pytest.mark.parametrize(("size", "counts"), [(7, (4, 3, 0)), (5, (2, 3, 0))])
def test_shares_of_one_leave_no_rest_to_rounding(size: int, counts: tuple[int, int, int]) -> None:
    recipe = recipe_of({"drawings": 0.5, "clothes": 0.5, "batch-size": size})
    assert recipe.counts() == counts


def test_sizes_reach_the_architecture() -> None:
    recipe = recipe_of({"drawings": 1, "image-side": 24, "patch": 12, "text-heads": 5})
    assert recipe.architecture() == Architecture(24, 12, 192, 6, 6, 160, 4, 5, 128, 32)


def test_the_study_s_recipe_is_read() -> None:
    recipe = read_recipe(CONFIGS / "study" / "pretrain.toml")
    assert (recipe.image_side, recipe.counts()) == (64, (51, 26, 179))


def test_all_mistakes_are_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        recipe_of({"stesp": 3, "patch": 0, "learning-rate": "x"})
    first, second, third = caught.value.problems
    assert "'stesp': unknown key; did you mean 'steps'?" in first
    assert second == "patch: expected at least 1 and at most 4096, found 0"
    assert third.startswith("learning-rate: expected float, found 'x'")
    assert str(caught.value).startswith("3 problems in the recipe:")


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="learning-rate: expected more than 0 and at most 10"):
        recipe_of({"drawings": 1, "learning-rate": 0.0})


@pytest.mark.parametrize("templates", ["a {}.", [3]])
def test_what_is_no_list_of_texts_is_refused_as_such(templates: object) -> None:
    with pytest.raises(ConfigError, match="templates: expected a list of str, found "):
        recipe_of({"drawings": 1, "templates": templates})


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"drawings": 1, "patch": 7}, "patch: expected a divisor of image-side, found 7"),
        ({"drawings": 1, "image-side": 4096}, "at most 16,384 in an image, found 262,144"),
        ({"drawings": 1, "text-width": 4096, "text-blocks": 5}, "text-width and text-blocks: "),
        ({"drawings": 1, "image-heads": 5}, "image-heads: expected a divisor of image-width"),
        ({"drawings": 1, "text-heads": 3}, "text-heads: expected a divisor of text-width"),
        ({"drawings": 0.7, "clothes": 0.6}, "shares of at most 1 together, found 1.3"),
        ({"drawings": 0.7}, "captioned: expected a folder for the rest of a batch"),
        ({"drawings": 1, "templates": ["a {} {}."]}, "templates: expected texts with one {}"),
        ({"drawings": 1, "captioned": "x"}, "captioned: drawings and clothes leave no image"),
        ({"drawings": 1e-3, "captioned": "x"}, "drawings: expected 0 or a share of at least one"),
        ({"captioned": "a\0b"}, "captioned: expected a path without control characters"),
        ({"drawings": 1, "fashion-mnist": "a\0b"}, "fashion-mnist: expected a path without"),
        ({"drawings": 1, "templates": []}, "templates: expected texts with one {}"),
    ],
)
def test_values_that_do_not_fit_each_other_are_refused(
    content: dict[str, object], found: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        recipe_of(content)
    assert [found in problem for problem in caught.value.problems] == [True]


def test_what_is_no_file_or_no_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_recipe(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("steps = = 1")
    with pytest.raises(UserError, match="not a TOML file"):
        read_recipe(tmp_path / "bad.toml")
