"""Loading a CLIP or SigLIP: the embedded one, a hub's, or a folder in transformers format."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoConfig, AutoTokenizer, CLIPModel, PreTrainedTokenizerBase, SiglipModel
from transformers.utils import cached_file

from fl2ora.clip_tuning.adapter import check_finite
from fl2ora.clip_tuning.embedded import embedded_preprocessor, load_embedded
from fl2ora.clip_tuning.families import Family, family_of
from fl2ora.clip_tuning.model_folder import without_progress_bars, write_model
from fl2ora.clip_tuning.model_names import source_of, well_known
from fl2ora.clip_tuning.preprocessing import Augmentation, Preprocessing
from fl2ora.clip_tuning.preprocessor_file import FILE
from fl2ora.clip_tuning.quick_gelu import keep_less
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.image_fit import Fit

T = TypeVar("T")


@dataclass(frozen=True)
class Clip:
    """A frozen CLIP or SigLIP with its tokenizer and preprocessing.

    Attributes:
        name: what it was loaded by.
        model: float32, in evaluation mode, no parameter requires a gradient.
        tokenizer: of the text tower.
        preprocessing: from image bytes to the image tower's input.
    """

    name: str
    model: CLIPModel | SiglipModel
    tokenizer: PreTrainedTokenizerBase
    preprocessing: Preprocessing

    @property
    def family(self) -> Family:
        """What is peculiar to this kind of model."""
        return family_of(self.model.config.model_type)

    @property
    def feature_size(self) -> int:
        """D, the size of the features that both towers give."""
        return self.family.feature_size(self.model.config)

    @property
    def longest_prompt(self) -> int:
        """Most tokens the text tower takes."""
        return int(self.model.config.text_config.max_position_embeddings)


def load_clip(name: str) -> Clip:
    """Load a model by ``"embedded"``, a folder, or a hub name; weights are safetensors only.

    Raises:
        UserError: it is no CLIP and no SigLIP, or a part is missing, unreadable or does not fit the
            others, naming it.
    """
    if name == "embedded":
        model, tokenizer, preprocessor = _part(name, "the package's files", load_embedded)
    else:
        model, tokenizer, preprocessor = _load_pretrained(name)
    model.eval().requires_grad_(False)
    keep_less(model)
    size, family = model.config.vision_config.image_size, family_of(model.config.model_type)
    return Clip(name, model, tokenizer, _preprocessing(name, preprocessor, size, family))


@lru_cache(maxsize=4)
def image_fit(name: str, augmentation: Augmentation = "none") -> Fit:
    """Return how files of any size become images for a model, whose weights are not read.

    Args:
        name: see ``load_clip``.
        augmentation: of the training images.

    Raises:
        UserError: a part of the model is missing or unreadable, naming it.
    """
    if name == "embedded":
        (preprocessor, size), family = embedded_preprocessor(), family_of("clip")
    else:
        source = source_of(name)
        family = _part(name, "config.json", lambda: _read_family(source))
        config = _part(name, "config.json", lambda: AutoConfig.from_pretrained(source))
        preprocessor = _part(name, FILE, lambda: _read_preprocessor(source))
        size = config.vision_config.image_size
    return _preprocessing(name, preprocessor, size, family).fit(augmentation)


def save_clip(name: str, model: CLIPModel | SiglipModel, folder: Path) -> None:
    """Write a model that was tuned as a folder that transformers and ``load_clip`` load.

    Args:
        name: of the model it was, whose tokenizer and preprocessing it has; see ``load_clip``.
        model: with the structure of that one.
        folder: where to; made if it is not there.

    Raises:
        UserError: a part of the model ``name`` is missing or unreadable, naming it.
    """
    if name == "embedded":
        _, tokenizer, preprocessor = _part(name, "the package's files", load_embedded)
    else:
        source = source_of(name)
        tokenizer = _part(name, "a tokenizer", lambda: AutoTokenizer.from_pretrained(source))
        preprocessor = _part(name, FILE, lambda: _read_preprocessor(source))
    write_model(folder, model, tokenizer, preprocessor)


def _preprocessing(
    name: str, preprocessor: dict[str, Any], size: int | Sequence[int], family: Family
) -> Preprocessing:
    return _part(
        name,
        FILE,
        lambda: Preprocessing.from_config(preprocessor, size, family.preprocessor),
    )


def _load_pretrained(
    name: str,
) -> tuple[CLIPModel | SiglipModel, PreTrainedTokenizerBase, dict[str, Any]]:
    source = source_of(name)
    family = _part(name, "config.json", lambda: _read_family(source))
    model = _part(name, "model.safetensors", lambda: _read_weights(source, family))
    _part(name, "config.json", lambda: family.feature_size(model.config))
    tokenizer = _part(name, "a tokenizer", lambda: AutoTokenizer.from_pretrained(source))
    _part(name, "a tokenizer", lambda: family.check_tokenizer(tokenizer, model.config))
    preprocessor = _part(name, FILE, lambda: _read_preprocessor(source))
    return model, tokenizer, preprocessor


def _part(name: str, expected: str, read: Callable[[], T]) -> T:
    """Return what ``read`` returns, or say in one line which part of the model is at fault."""
    try:
        return read()
    except Exception as error:  # the libraries raise all kinds, some of them no more exact
        line = (str(error).strip().splitlines() or [repr(error)])[0]
        if Path(name).expanduser().is_dir():
            line = _without_hub(line) or type(error).__name__
        else:
            line = line.rstrip(".") + well_known(name)
        raise UserError(f"model {name!r}: expected {expected}; {line}") from error


def _without_hub(text: str) -> str:
    """Return a text without the sentences that send the reader to the hub, as of a folder."""
    return " ".join(part for part in re.split(r"(?<=[.!?]) ", text) if "huggingface.co" not in part)


def _read_json(source: str, file: str) -> dict[str, Any]:
    path = cached_file(source, file)
    if path is None:
        raise ValueError("found no such file")
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{file}: expected a JSON object, found {type(content).__name__}")
    return content


def _read_preprocessor(source: str) -> dict[str, Any]:
    """Return what ``preprocessor_config.json`` says; ``processor_config.json`` goes before it.

    transformers 5 writes the latter, with the image processor inside, and reads them in this order.
    """
    file = "processor_config.json"
    if cached_file(source, file, _raise_exceptions_for_missing_entries=False) is not None:
        nested = _read_json(source, file).get("image_processor")
        if isinstance(nested, dict):
            return nested
    return _read_json(source, FILE)


def _read_family(source: str) -> Family:
    return family_of(_read_json(source, "config.json").get("model_type"))


def _read_weights(source: str, family: Family) -> CLIPModel | SiglipModel:
    """Load the model; transformers would fill in what the file lacks with random numbers."""
    # A download's progress is worth a line; that of reading a file is not.
    with without_progress_bars() if Path(source).is_dir() else nullcontext():
        model, report = family.model_class.from_pretrained(
            source,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # which are told here
        )
    misshapen = sorted(report["mismatched_keys"])
    if misshapen:
        tensor, found, expected = misshapen[0]
        others = f", and {len(misshapen) - 1} more" if len(misshapen) > 1 else ""
        raise ValueError(
            f"{tensor} has shape {tuple(found)}, expected {tuple(expected)} by config.json{others}"
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"it lacks {len(missing)} of {family.title}'s tensors, such as {missing[0]}"
        )
    check_finite(model.state_dict(), "the weights")
    return model
