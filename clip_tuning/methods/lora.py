"""FL2oRA: low-rank adapters on the attention of both CLIP towers.

Singha et al. 2025, arXiv 2512.04305; placement of CLIP-LoRA, Zanella & Ben Ayed 2024, arXiv
2405.18541; LoRA, Hu et al. 2021, arXiv 2106.09685; rank-stabilised scaling, Kalajdzievski 2023,
arXiv 2312.03732.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from peft import LoraConfig, PeftModel, get_peft_model

from clip_tuning.classifier import ClipClassifier
from clip_tuning.clip import Clip
from clip_tuning.methods.base import TuningMethod

_PREFIX = "base_model.model."
_ACTIVE = ".default."


class Lora(TuningMethod):
    """LoRA ``W + s B A`` with ``s = alpha / sqrt(rank)`` (rsLoRA) or ``alpha / rank``.

    ``B`` starts at zero, so the first logits are zero-shot CLIP's. On ViT-B/16 rank 2 on q, k and
    v of both towers has 184,320 parameters.

    Args:
        rank: r of ``A (r, i)`` and ``B (o, r)``.
        alpha: numerator of the scaling s.
        dropout: on the input of the LoRA branch, in training only.
        towers: ``both``, ``vision`` or ``text``.
        targets: comma-separated projections of each attention: q, k, v, o.
        rslora: scale by ``sqrt(rank)`` as the FL2oRA code does, else by ``rank``.
    """

    TOWERS: ClassVar[dict[str, str]] = {
        "both": "(text|vision)_model", "vision": "vision_model", "text": "text_model",
    }  # fmt: skip
    PROJECTIONS: ClassVar[dict[str, str]] = {
        "q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "out_proj",
    }  # fmt: skip

    def __init__(
        self,
        rank: int = 2,
        alpha: float = 1.0,
        dropout: float = 0.25,
        towers: str = "both",
        targets: str = "q,k,v",
        rslora: bool = True,
    ) -> None:
        """Check the arguments; see the class."""
        letters = [letter.strip() for letter in targets.split(",")]
        if rank < 1:
            raise ValueError(f"rank: expected at least 1, found {rank}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected 0 <= dropout < 1, found {dropout}")
        if towers not in self.TOWERS:
            raise ValueError(f"towers: expected one of {', '.join(self.TOWERS)}, found {towers!r}")
        if not letters or any(letter not in self.PROJECTIONS for letter in letters):
            raise ValueError(f"targets: expected letters among q, k, v, o, found {targets!r}")
        modules = "|".join(self.PROJECTIONS[letter] for letter in letters)
        self.config = LoraConfig(
            r=rank,
            lora_alpha=alpha,
            lora_dropout=dropout,
            use_rslora=rslora,
            target_modules=rf"{self.TOWERS[towers]}\.encoder\.layers\.\d+\.self_attn\.({modules})",
        )

    def attach(
        self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]
    ) -> ClipClassifier:
        """Inject the adapters and tune them alone; names are peft's without its wrapper prefix."""
        classifier = ClipClassifier(clip, class_names, templates)
        peft_model = get_peft_model(clip.model, self.config)
        classifier.clip = peft_model
        return classifier.tune(
            {
                name.removeprefix(_PREFIX).replace(_ACTIVE, "."): parameter
                for name, parameter in peft_model.named_parameters()
                if "lora_" in name
            }
        )

    def save(self, classifier: ClipClassifier, folder: Path) -> None:
        """Write a peft folder: ``PeftModel.from_pretrained(CLIPModel, folder)`` loads it."""
        peft_model = classifier.clip
        assert isinstance(peft_model, PeftModel)
        peft_model.save_pretrained(str(folder), safe_serialization=True)
