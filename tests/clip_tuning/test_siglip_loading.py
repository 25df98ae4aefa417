"""Loading a SigLIP from a folder in transformers format, and naming the part that is amiss."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import SiglipModel

import method_laws as laws
from fl2ora.clip_tuning.clip import load_clip
from fl2ora.clip_tuning.preprocessing import Preprocessing
from fl2ora.experiment.errors import UserError
from tiny_siglip import END, LENGTH, PAD, UNKNOWN


@pytest.fixture
def damaged(tiny_siglip_folder: Path, tmp_path: Path) -> Path:
    """Return a copy of the folder that may be changed."""
    return Path(shutil.copytree(tiny_siglip_folder, tmp_path / "siglip"))


def test_a_folder_loads_as_with_transformers(tiny_siglip_folder: Path) -> None:
    clip = load_clip(str(tiny_siglip_folder))
    theirs = SiglipModel.from_pretrained(tiny_siglip_folder).state_dict()
    assert clip.model.state_dict().keys() == theirs.keys()
    assert all(torch.equal(t, clip.model.state_dict()[n]) for n, t in theirs.items())
    assert not any(p.requires_grad for p in clip.model.parameters())
    assert not clip.model.training
    assert clip.preprocessing == Preprocessing(32, 32, (0.5,) * 3, (0.5,) * 3, squash=True)
    assert (clip.feature_size, clip.longest_prompt, clip.family.title) == (32, LENGTH, "SigLIP")


def test_a_model_saved_again_gives_equal_logits(tiny_siglip_folder: Path, damaged: Path) -> None:
    clip = load_clip(str(tiny_siglip_folder))
    clip.model.save_pretrained(damaged)
    clip.tokenizer.save_pretrained(damaged)
    first, second = (
        laws.logits_of(laws.build(str(f), "zero_shot")) for f in (tiny_siglip_folder, damaged)
    )
    assert torch.equal(first, second)


def _edit(path: Path, part: str = "", **values: Any) -> None:
    content = json.loads(path.read_text())
    (content[part] if part else content).update(values)
    path.write_text(json.dumps(content))


def _config(part: str = "", **values: Any) -> Callable[[Path], None]:
    return lambda folder: _edit(folder / "config.json", part, **values)


def _preprocessor(**values: Any) -> Callable[[Path], None]:
    return lambda folder: _edit(folder / "preprocessor_config.json", **values)


def _tokenizer_config(**values: Any) -> Callable[[Path], None]:
    return lambda folder: _edit(folder / "tokenizer_config.json", **values)


def _lose_a_tensor(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    del state["vision_model.head.probe"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def _know_no_words(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"] = {token: i for i, token in enumerate((PAD, END, UNKNOWN))}
    (folder / "tokenizer.json").write_text(json.dumps(content))


def test_published_file_layout_loads(damaged: Path) -> None:
    """They pad with the end of text and leave the ids to defaults, one outside the vocabulary."""
    _tokenizer_config(pad_token=END)(damaged)
    config = json.loads((damaged / "config.json").read_text())
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        del config["text_config"][key]
    (damaged / "config.json").write_text(json.dumps(config))
    clip = load_clip(str(damaged))
    assert clip.model.config.text_config.eos_token_id >= len(clip.tokenizer)
    assert clip.tokenizer.pad_token_id == clip.tokenizer.eos_token_id == 1


def test_tokenizer_pads_with_its_pad_token(damaged: Path) -> None:
    """SigLIP 2's files leave the model's id at a default that is another token."""
    _config("text_config", pad_token_id=1)(damaged)
    assert load_clip(str(damaged)).tokenizer.pad_token_id == 0


DAMAGES = [
    (_config(model_type="blip"), "config.json; model_type: expected 'clip' or 'siglip', found 'b"),
    (_config(model_type=None), "config.json; model_type: expected 'clip' or 'siglip', found None"),
    (_lose_a_tensor, "model.safetensors; it lacks 1 of SigLIP's tensors, such as vision_model.hea"),
    (_config("vision_config", vision_use_head=False), "config.json; vision_use_head: expected "),
    (_tokenizer_config(padding_side="left"), "a tokenizer; found one that pads 'a photo' to 48 to"),
    (_tokenizer_config(eos_token=PAD), "a tokenizer; found one that ends 'a photo' with token 1, "),
    (_know_no_words, "a tokenizer; found one that does not know 'a photo' (is tokenizer.json, or "),
    (_preprocessor(size={"height": 64, "width": 64}), "preprocessor_config.json; preprocessor_con"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_loading_errors_name_the_file_at_fault(
    damaged: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(damaged)
    with pytest.raises(UserError) as caught:
        load_clip(str(damaged))
    assert str(caught.value).startswith(f"model {str(damaged)!r}: expected {message}")
    assert "\n" not in str(caught.value)
