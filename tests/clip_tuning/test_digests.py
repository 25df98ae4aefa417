"""Digests tell apart what must be the same on server and nodes, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPModel

from fl2ora.clip_tuning.digests import run_digests
from fl2ora.clip_tuning.embedded import load_embedded
from fl2ora.experiment.errors import UserError

NAMES, TEMPLATES = ("cat", "ankle boot"), ("a photo of a {}.",)


def saved(folder: Path, alter: Callable[[CLIPModel, dict[str, Any]], None] | None = None) -> str:
    """Write the embedded model as a folder in transformers format, changed by ``alter``."""
    model, tokenizer, preprocessor = load_embedded()
    preprocessor = dict(preprocessor)
    if alter is not None:
        alter(model, preprocessor)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return str(folder)


def differing(first: dict[str, str], second: dict[str, str]) -> set[str]:
    assert first.keys() == second.keys()
    return {name for name in first if first[name] != second[name]}


def one_value(model: CLIPModel, preprocessor: dict[str, Any]) -> None:
    with torch.no_grad():
        model.visual_projection.weight[0, 0] += 1e-3


def other_mean(model: CLIPModel, preprocessor: dict[str, Any]) -> None:
    preprocessor["image_mean"] = [0.5, 0.5, 0.5]


def test_equal_models_in_two_folders_have_equal_digests(tmp_path: Path) -> None:
    one, two = (saved(tmp_path / name) for name in "ab")
    digests = [run_digests(model, "lora", NAMES, TEMPLATES) for model in (one, two, "embedded")]
    assert not differing(digests[0], digests[1])
    assert not differing(digests[0], digests[2])


@pytest.mark.parametrize(
    ("alter", "name"), [(one_value, "base weights"), (other_mean, "preprocessing")]
)
def test_a_changed_model_is_told_by_its_part(tmp_path: Path, alter: Any, name: str) -> None:
    plain, changed = saved(tmp_path / "plain"), saved(tmp_path / "changed", alter)
    found = [run_digests(model, "lora", NAMES, TEMPLATES) for model in (plain, changed)]
    assert differing(*found) == {name}


def test_another_tokenizer_is_told(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    before = run_digests(folder, "lora", NAMES, TEMPLATES)
    other = saved(tmp_path / "other")
    file = Path(other) / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    letters = {letter: number for letter, number in vocabulary.items() if len(letter) == 1}
    numbers = sorted(letters.values(), reverse=True)
    vocabulary |= dict(zip(sorted(letters, key=letters.__getitem__), numbers, strict=True))
    file.write_text(json.dumps(content))
    assert "tokenizer" in differing(before, run_digests(other, "lora", NAMES, TEMPLATES))


def test_templates_and_their_order_count() -> None:
    one = run_digests("embedded", "lora", NAMES, ("a {}", "the {}"))
    assert differing(one, run_digests("embedded", "lora", NAMES, ("the {}", "a {}"))) == {
        "templates"
    }


@pytest.mark.parametrize("wrap", ["lora(start='{}')", "logit_scale(\"lora(start='{}')\")"])
def test_the_content_of_a_start_adapter_counts_and_not_its_place(tmp_path: Path, wrap: str) -> None:
    def digests(name: str, alpha: int) -> dict[str, str]:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps({"lora_alpha": alpha}))
        (folder / "README.md").write_text(name)
        return run_digests("embedded", wrap.format(folder), NAMES, TEMPLATES)

    first, same, other = digests("a", 8), digests("b", 8), digests("c", 16)
    assert not differing(first, same)
    assert differing(first, other) == {"files of the method"}


def test_only_what_lies_right_in_a_folder_counts(tmp_path: Path) -> None:
    """A folder may hold all of a disk; nobody should wait for that to be read."""
    (tmp_path / "deep").mkdir()
    method = f"lora(start={str(tmp_path)!r})"
    before = run_digests("embedded", method, NAMES, TEMPLATES)
    (tmp_path / "deep" / "weights.json").write_text("{}")
    assert not differing(before, run_digests("embedded", method, NAMES, TEMPLATES))
    (tmp_path / "weights.json").write_text("{}")
    assert differing(before, run_digests("embedded", method, NAMES, TEMPLATES))


def test_a_text_that_is_no_path_stands_for_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    before = run_digests("embedded", "coop(init='~')", NAMES, TEMPLATES)
    (tmp_path / "weights.json").write_text("{}")
    assert not differing(before, run_digests("embedded", "coop(init='~')", NAMES, TEMPLATES))
    named = run_digests("embedded", "lora(start='~')", NAMES, TEMPLATES)
    assert differing(before, named) == {"files of the method"}


def test_a_model_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        run_digests(str(tmp_path / "none"), "lora", NAMES, TEMPLATES)


def test_torchs_random_stream_stays() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    run_digests("embedded", "lora", ("only here",), TEMPLATES)
    assert torch.equal(torch.rand(1), expected)
