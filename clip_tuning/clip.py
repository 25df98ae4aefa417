"""Loading a CLIP: the embedded one, any checkpoint on a hub, or a folder in transformers format."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoTokenizer, CLIPModel, CLIPTextConfig, PreTrainedTokenizerBase
from transformers.utils import cached_file

from clip_tuning.embedded import load_embedded
from clip_tuning.preprocessing import Preprocessing
from experiment.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Clip:
    """A frozen CLIP with its tokenizer and preprocessing.

    Attributes:
        name: what it was loaded by.
        model: float32, in evaluation mode, no parameter requires a gradient.
        tokenizer: of the text tower.
        preprocessing: from image bytes to the image tower's input.
    """

    name: str
    model: CLIPModel
    tokenizer: PreTrainedTokenizerBase
    preprocessing: Preprocessing


def load_clip(name: str) -> Clip:
    """Load a CLIP by ``"embedded"``, a folder, or a hub name; weights are safetensors only.

    Raises:
        UserError: a part is missing, unreadable or does not fit the others, naming it.
    """
    if name == "embedded":
        model, tokenizer, preprocessor = _part(name, "the package's files", load_embedded)
    else:
        model, tokenizer, preprocessor = _load_pretrained(name)
    model.eval().requires_grad_(False)
    side = int(model.config.vision_config.image_size)
    preprocessing = _part(
        name,
        "preprocessor_config.json",
        lambda: Preprocessing.from_config(preprocessor, side),
    )
    return Clip(name, model, tokenizer, preprocessing)


def _load_pretrained(name: str) -> tuple[CLIPModel, PreTrainedTokenizerBase, dict[str, Any]]:
    folder = Path(name).expanduser()
    source = str(folder) if folder.is_dir() else name
    if not folder.is_dir() and (folder.is_absolute() or name.startswith((".", "~"))):
        raise UserError(f"model: folder {name!r} does not exist")
    _part(name, "config.json", lambda: _read_json(source, "config.json"))
    model = _part(name, "model.safetensors", lambda: _read_weights(source))
    tokenizer = _part(
        name, "a tokenizer", lambda: _read_tokenizer(source, model.config.text_config)
    )
    preprocessor = _part(
        name, "preprocessor_config.json", lambda: _read_json(source, "preprocessor_config.json")
    )
    return model, tokenizer, preprocessor


def _part(name: str, expected: str, read: Callable[[], T]) -> T:
    """Return what ``read`` returns, or say in one line which part of the model is at fault."""
    try:
        return read()
    except Exception as error:  # the libraries raise all kinds, some of them no more exact
        lines = str(error).strip().splitlines() or [repr(error)]
        raise UserError(f"model {name!r}: expected {expected}; {lines[0]}") from error


def _read_json(source: str, file: str) -> dict[str, Any]:
    content = json.loads(Path(str(cached_file(source, file))).read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{file}: expected a JSON object, found {type(content).__name__}")
    return content


def _read_weights(source: str) -> CLIPModel:
    """Load the model; transformers would fill in what the file lacks with random numbers."""
    model, report = CLIPModel.from_pretrained(
        source, dtype=torch.float32, use_safetensors=True, output_loading_info=True
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(f"it lacks {len(missing)} of CLIP's tensors, such as {missing[0]}")
    return model


def _read_tokenizer(source: str, text_config: CLIPTextConfig) -> PreTrainedTokenizerBase:
    """Load the tokenizer; transformers would make up an empty one where there are no files.

    The text tower pools at ``eos_token_id``, or at the highest id where that is 2, so a text has to
    end there.
    """
    tokenizer = AutoTokenizer.from_pretrained(source)
    text = "a photo"
    ids = tokenizer(text)["input_ids"]
    if len(ids) < 3 or tokenizer.unk_token_id in ids[1:-1]:
        raise ValueError(
            f"found one that does not know {text!r} (are tokenizer.json, or vocab.json and "
            f"merges.txt, there?)"
        )
    pooled = max(ids) if text_config.eos_token_id == 2 else text_config.eos_token_id
    if pooled != ids[-1] or pooled in ids[:-1]:
        raise ValueError(
            f"found one that ends {text!r} with token {ids[-1]}, where the text tower looks for "
            f"{pooled}"
        )
    return tokenizer
