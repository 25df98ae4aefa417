"""The kinds of model that may be tuned, CLIP and SigLIP, and where they differ.

Both have a ``vision_model``, a ``text_model`` and a ``logit_scale``. SigLIP (Zhai et al. 2023,
arXiv 2303.15343) has no projections: an attention pooling head ends its vision tower, a linear head
its text tower. Its text tower is not causal and pools at the last of ``max_position_embeddings``
positions, so the padding is part of a prompt.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerBase, SiglipConfig, SiglipModel

from fl2ora.clip_tuning.preprocessor_file import CLIP_FILE, SIGLIP_FILE

_TEXT = "a photo"  # any tokenizer of images' captions knows its words


class Family(ABC):
    """What is the same for all models of a kind.

    Attributes:
        title: the kind's name.
        model_class: of transformers.
        preprocessor: what a ``preprocessor_config.json`` means where it says nothing.
        padding: of prompts, as tokenizers call it: to the ``longest`` or to ``max_length``.
    """

    title: ClassVar[str]
    model_class: ClassVar[type[CLIPModel] | type[SiglipModel]]
    preprocessor: ClassVar[Mapping[str, Any]]
    padding: ClassVar[str]

    @abstractmethod
    def feature_size(self, config: CLIPConfig | SiglipConfig) -> int:
        """Return D, the size of the features that both towers give.

        Raises:
            ValueError: they give no features that can be compared.
        """

    @abstractmethod
    def check_ending(
        self, tokenizer: PreTrainedTokenizerBase, ids: list[int], config: CLIPConfig | SiglipConfig
    ) -> None:
        """Refuse a tokenizer whose texts do not end as the text tower needs.

        Args:
            tokenizer: what is checked.
            ids: of some text.
            config: of the model.

        Raises:
            ValueError: says what was expected and found.
        """

    def check_tokenizer(
        self, tokenizer: PreTrainedTokenizerBase, config: CLIPConfig | SiglipConfig
    ) -> None:
        """Refuse a tokenizer that does not belong to the model.

        Raises:
            ValueError: it knows no words, or see ``check_ending``.
        """
        ids: list[int] = tokenizer(_TEXT)["input_ids"]
        words = ids[1:-1] if ids[:1] == [tokenizer.bos_token_id] else ids[:-1]
        if not words or tokenizer.unk_token_id in words:
            raise ValueError(
                f"found one that does not know {_TEXT!r} (is tokenizer.json, or spiece.model, or "
                f"vocab.json and merges.txt, there?)"
            )
        self.check_ending(tokenizer, ids, config)


class _Clip(Family):
    title = "CLIP"
    model_class = CLIPModel
    preprocessor = CLIP_FILE
    padding = "longest"

    def feature_size(self, config: CLIPConfig) -> int:
        return int(config.projection_dim)

    def check_ending(
        self, tokenizer: PreTrainedTokenizerBase, ids: list[int], config: CLIPConfig
    ) -> None:
        """Look for what the tower pools at: ``eos_token_id``, or the highest id where that is 2."""
        end = config.text_config.eos_token_id
        pooled = max(ids) if end == 2 else end
        if pooled != ids[-1] or pooled in ids[:-1]:
            raise ValueError(
                f"found one that ends {_TEXT!r} with token {ids[-1]}, where the text tower looks "
                f"for {pooled}"
            )


class _Siglip(Family):
    title = "SigLIP"
    model_class = SiglipModel
    preprocessor = SIGLIP_FILE
    padding = "max_length"

    def feature_size(self, config: SiglipConfig) -> int:
        vision, text = config.vision_config, config.text_config
        if not vision.vision_use_head:
            raise ValueError("vision_use_head: expected true, the vision tower's pooling head")
        if vision.hidden_size != text.projection_size:
            raise ValueError(
                f"projection_size: expected {vision.hidden_size}, the vision tower's hidden_size, "
                f"found {text.projection_size}"
            )
        return int(vision.hidden_size)

    def check_ending(
        self, tokenizer: PreTrainedTokenizerBase, ids: list[int], config: SiglipConfig
    ) -> None:
        """Look for the end and then the padding up to the last position, which the tower reads.

        Both are the tokenizer's: published files leave the model's ``eos_token_id`` at a default of
        transformers that lies outside their vocabulary, and SigLIP 2 pads with another token than
        the default ``pad_token_id``.
        """
        if ids[-1] != tokenizer.eos_token_id:
            raise ValueError(
                f"found one that ends {_TEXT!r} with token {ids[-1]}, not with its end of text "
                f"{tokenizer.eos_token_id}"
            )
        length = int(config.text_config.max_position_embeddings)
        padded = tokenizer(_TEXT, padding="max_length", max_length=length)["input_ids"]
        if padded != ids + [tokenizer.pad_token_id] * (length - len(ids)):
            raise ValueError(
                f"found one that pads {_TEXT!r} to {len(padded)} tokens as {padded[0]} ... "
                f"{padded[-1]}, where the text tower takes {length} with "
                f"{tokenizer.pad_token_id} after the text"
            )


_CLIP, _SIGLIP = _Clip(), _Siglip()


def family_of(model_type: object) -> Family:
    """Return the family that a model's ``config.json`` names.

    Raises:
        ValueError: it is neither.
    """
    if model_type == "clip":
        return _CLIP
    if model_type == "siglip":
        return _SIGLIP
    raise ValueError(f"model_type: expected 'clip' or 'siglip', found {model_type!r}")
