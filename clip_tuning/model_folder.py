"""A model's folder in transformers' format."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from fl2ora.clip_tuning.preprocessor_file import FILE


@contextlib.contextmanager
def without_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing bars among a command's own lines."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def write_model(
    folder: str | Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    preprocessor: Mapping[str, Any],
) -> None:
    """Write a folder that transformers and ``load_clip`` load.

    Args:
        folder: made if it is not there.
        model: its weights become safetensors.
        tokenizer: the model's.
        preprocessor: what its file is to hold.
    """
    with without_progress_bars():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    text = json.dumps(preprocessor, indent=1) + "\n"
    (Path(folder) / FILE).write_text(text, encoding="utf-8")
