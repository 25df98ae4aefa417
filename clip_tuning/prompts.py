"""Class names put into templates and turned into token ids."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from fl2ora.experiment.errors import UserError


def fill_templates(class_names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Return all prompts, class by class: ``len(class_names) * len(templates)`` texts.

    Underscores in class names are read as spaces, as CLIP's prompts have them.

    Raises:
        UserError: a template without exactly one ``{}``.
    """
    for template in templates:
        if template.count("{}") != 1:
            raise UserError(f"template {template!r}: expected exactly one {{}} for the class name")
    return [t.replace("{}", name.replace("_", " ")) for name in class_names for t in templates]


def tokenise(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int,
    padding: str = "longest",
) -> Tensor:
    """Return ``(n, L)`` token ids with L the longest text, or ``max_length`` if padded to that.

    CLIP's text tower is causal and pools at the end-of-text token, so it never looks at what
    follows: cutting the padding leaves every feature the same and saves most of the work. SigLIP's
    looks at all of it; see ``Family.padding``.

    Raises:
        UserError: a text is longer than the text tower's ``max_length`` tokens.
    """
    options = {"max_length": max_length} if padding == "max_length" else {}
    encoded = tokenizer(list(texts), padding=padding, **options)["input_ids"]
    most = max(len(row) for row in encoded)
    if most > max_length:
        lengths = [len(row) for row in tokenizer(list(texts))["input_ids"]]
        longest = texts[lengths.index(max(lengths))]
        raise UserError(f"prompt {longest!r} has {most} tokens; the text tower takes {max_length}")
    return torch.tensor(encoded, dtype=torch.int64)
