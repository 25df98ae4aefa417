"""Loading a CLIP from a folder in transformers format, and naming the part that is amiss."""

from __future__ import annotations

import json
import shutil
import ssl
import urllib.error
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPModel

from fl2ora.clip_tuning.clip import load_clip, save_clip
from fl2ora.clip_tuning.preprocessing import Preprocessing
from fl2ora.experiment.errors import UserError


@pytest.fixture
def folder(tiny_clip_folder: Path, tmp_path: Path) -> Path:
    """Return a copy of the tiny CLIP's folder that may be damaged."""
    return Path(shutil.copytree(tiny_clip_folder, tmp_path / "clip"))


def _edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def _edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_folder_loads_as_with_transformers(tiny_clip_folder: Path) -> None:
    clip = load_clip(str(tiny_clip_folder))
    theirs = CLIPModel.from_pretrained(tiny_clip_folder)
    assert clip.model.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(t, clip.model.state_dict()[n]) for n, t in theirs.state_dict().items())
    text = "A photo of an ankle boot."
    assert (
        clip.tokenizer(text)["input_ids"]
        == AutoTokenizer.from_pretrained(tiny_clip_folder)(text)["input_ids"]
    )
    assert clip.preprocessing == Preprocessing(32, 32)
    assert clip.name == str(tiny_clip_folder)


def test_reading_and_writing_a_folder_draws_no_bars_and_leaves_them_to_others(
    tiny_clip_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    clip = load_clip(str(tiny_clip_folder))
    save_clip("embedded", clip.model, tmp_path)
    assert "%" not in capfd.readouterr().err
    CLIPModel.from_pretrained(tiny_clip_folder)
    assert "%" in capfd.readouterr().err


def test_a_loaded_clip_is_frozen_float32_and_in_evaluation_mode(folder: Path) -> None:
    def halve(state: dict[str, torch.Tensor]) -> None:
        for name in state:
            state[name] = state[name].half()

    _edit_weights(folder, halve)
    _edit(folder / "config.json", dtype="float16")
    clip = load_clip(str(folder))
    assert not clip.model.training
    assert not any(p.requires_grad for p in clip.model.parameters())
    assert {p.dtype for p in clip.model.parameters()} == {torch.float32}


def test_embedded_model_loads_by_name() -> None:
    clip = load_clip("embedded")
    assert clip.name == "embedded"
    assert clip.preprocessing.size == clip.model.config.vision_config.image_size


def test_a_tilde_in_the_path_is_the_home_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load_clip("~/clip").name == "~/clip"


def test_unexpected_tensors_in_the_file_are_ignored(folder: Path) -> None:
    """Checkpoints of older transformers hold ``position_ids`` too."""
    _edit_weights(
        folder,
        lambda s: s.update({"text_model.embeddings.position_ids": torch.arange(77)[None]}),
    )
    assert load_clip(str(folder))


def _remove(*names: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return damage


def _write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _lose_a_tensor(folder: Path) -> None:
    _edit_weights(folder, lambda state: state.pop("logit_scale") and None)


def _misshape(folder: Path) -> None:
    _edit_weights(folder, lambda state: state.update({"text_projection.weight": torch.ones(3, 3)}))


def _not_a_number(folder: Path) -> None:
    _edit_weights(folder, lambda state: state["logit_scale"].fill_(torch.nan) and None)


def _pickle(folder: Path) -> None:
    """Leave the weights as ``pytorch_model.bin``, whose loading could run anything."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _larger_crop(folder: Path) -> None:
    _edit(folder / "preprocessor_config.json", crop_size={"height": 224, "width": 224})


def _other_end_of_text(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 5
    (folder / "config.json").write_text(json.dumps(config))


DAMAGES = [
    (_remove("config.json"), "expected config.json; "),
    (_write("config.json", "{"), "expected config.json; "),
    (_remove("model.safetensors"), "expected model.safetensors; "),
    (_pickle, "expected model.safetensors; "),
    (_truncate, "expected model.safetensors; "),
    (_write("model.safetensors", "nothing of the kind"), "expected model.safetensors; "),
    (_lose_a_tensor, "expected model.safetensors; it lacks 1 of CLIP's tensors, such as logit_s"),
    (_not_a_number, "expected model.safetensors; the weights: logit_scale has 1 of 1 values not"),
    (
        _misshape,
        "expected model.safetensors; text_projection.weight has shape (3, 3), expected (16, 32) by",
    ),
    (_remove("tokenizer.json"), "expected a tokenizer; "),
    (_remove("tokenizer.json", "tokenizer_config.json"), "expected a tokenizer; found one that"),
    (_write("tokenizer.json", "{}"), "expected a tokenizer; "),
    (_other_end_of_text, "expected a tokenizer; found one that ends 'a photo' with token 257,"),
    (_remove("preprocessor_config.json"), "expected preprocessor_config.json; "),
    (_write("preprocessor_config.json", "{"), "expected preprocessor_config.json; "),
    (_write("preprocessor_config.json", "[]"), "expected preprocessor_config.json; "),
    (_larger_crop, "expected preprocessor_config.json; preprocessor_config.json: crop_size 224"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_loading_errors_name_the_file_at_fault(
    folder: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(folder)
    with pytest.raises(UserError) as caught:
        load_clip(str(folder))
    assert str(caught.value).startswith(f"model {str(folder)!r}: {message}")
    assert "\n" not in str(caught.value)
    assert "huggingface.co" not in str(caught.value)
    assert "'None'" not in str(caught.value)


@pytest.mark.parametrize("name", ["/no/such/folder", "./no-such-folder", "~/no-such-folder"])
def test_a_missing_folder_is_not_looked_up_on_the_hub(name: str) -> None:
    with pytest.raises(UserError, match=f"^model: folder '{name}' does not exist$"):
        load_clip(name)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("openai/clip-vit-base-patch61", "; did you mean 'openai/clip-vit-base-patch16'?"),
        ("openai/clip-vit-base-patch16", ""),  # right, and no hint at itself
        ("nobody/no-such-clip", ""),
    ],
)
def test_a_hub_that_does_not_answer_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, name: str, hint: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("fl2ora.clip_tuning.model_names.cached_file", lambda *_, **__: None)
    monkeypatch.setattr("fl2ora.clip_tuning.model_names.is_offline_mode", lambda: False)
    with pytest.raises(UserError) as caught:
        load_clip(name)
    message = str(caught.value)
    assert message.startswith(f"model {name!r}: expected a model downloaded before, or a hub that")
    assert message.endswith(f"http://127.0.0.1:9 does not ([Errno 111] Connection refused){hint}")


@pytest.mark.parametrize(
    "error",
    [
        urllib.error.URLError(ssl.SSLCertVerificationError("unknown issuer")),
        urllib.error.HTTPError("http://hub", 401, "Unauthorized", Message(), None),
    ],
)
def test_what_the_hub_answers_and_whom_to_trust_is_for_transformers_to_judge(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def answer(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("fl2ora.clip_tuning.model_names.cached_file", lambda *_, **__: None)
    monkeypatch.setattr("fl2ora.clip_tuning.model_names.is_offline_mode", lambda: False)
    monkeypatch.setattr("urllib.request.urlopen", answer)
    monkeypatch.setattr("fl2ora.clip_tuning.clip._read_family", _no_family)
    with pytest.raises(UserError, match=r"expected config.json; none"):
        load_clip("somebody/clip")


def test_a_hub_name_downloaded_before_needs_no_hub(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("fl2ora.clip_tuning.model_names.cached_file", lambda *_, **__: str(folder))
    monkeypatch.setattr("fl2ora.clip_tuning.clip._read_family", _no_family)
    with pytest.raises(UserError, match=r"expected config.json; none; did you mean 'openai/clip-v"):
        load_clip("openai/clip-vit-base-patch61")


def _no_family(source: str) -> None:
    raise ValueError("none.")


def test_eos_token_id_2_means_the_highest_id(folder: Path) -> None:
    """Their files say 2 where the end of text has the highest id."""
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 2
    (folder / "config.json").write_text(json.dumps(config))
    assert load_clip(str(folder)).model.text_model.eos_token_id == 2


def test_processor_config_of_transformers_5_is_read_first(folder: Path) -> None:
    """It holds the image processor's settings; the older file may be missing or left behind."""
    older = folder / "preprocessor_config.json"
    settings = {**json.loads(older.read_text()), "image_mean": [0.5, 0.25, 0.125]}
    newer = folder / "processor_config.json"
    newer.write_text(json.dumps({"processor_class": "CLIPProcessor", "image_processor": settings}))
    assert load_clip(str(folder)).preprocessing.mean == (0.5, 0.25, 0.125)
    older.unlink()
    assert load_clip(str(folder)).preprocessing.mean == (0.5, 0.25, 0.125)


def test_processor_config_without_an_image_processor_is_passed_over(folder: Path) -> None:
    expected = load_clip(str(folder)).preprocessing
    (folder / "processor_config.json").write_text('{"processor_class": "CLIPProcessor"}')
    assert load_clip(str(folder)).preprocessing == expected
