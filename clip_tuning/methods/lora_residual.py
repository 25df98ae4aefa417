"""LoRA with room for what a server cannot put into the factors: ``W + s (B A + B_r A_r)``.

For strategies that move the frozen weights, such as FLoRA (Wang et al. 2024, arXiv 2409.05976) and
FedEx-LoRA (Singhal et al. 2024, arXiv 2410.09432). Weights are ``(o, i)`` as in torch's Linear.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.functional import linear

from fl2ora.clip_tuning.adapter import Adapter, as_adapter, save_adapter
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.factors import factor_names, merged_of, pair_names, residual_names, scalings
from fl2ora.clip_tuning.methods.lora import LoRA
from fl2ora.experiment.arguments import whole

_PREFIX = "base_model.model."
_WEIGHTS = "adapter_model.safetensors"


class LoRAResidual(LoRA):
    """``LoRA`` beside a frozen product ``B_r A_r`` of rank R, zero at first, set by the server.

    The residual factors travel with the adapter both ways; clients return them as they came. A
    strategy that does not know them leaves them zero. What is saved is one LoRA adapter of rank
    ``r + R`` with the same s, which peft loads.

    Args:
        residual_rank: R; with the smaller side of the weights every residual is exact.
        rank: r of the trained factors.
        alpha: numerator of the scaling s, that of rank r.
        dropout: on the input of the trained branch, in training only.
        towers: as in ``LoRA``.
        targets: as in ``LoRA``.
        rslora: as in ``LoRA``.
        blocks: as in ``LoRA``.
    """

    def __init__(
        self,
        residual_rank: int = 16,
        rank: int = 2,
        alpha: float = 1.0,
        dropout: float = 0.25,
        towers: str = "both",
        targets: str = "q,k,v",
        rslora: bool = True,
        blocks: str = "all",
    ) -> None:
        super().__init__(rank, alpha, dropout, towers, targets, rslora, blocks)
        self.residual_rank = whole("residual_rank", residual_rank, at_least=1)

    def attach(
        self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]
    ) -> ClipClassifier:
        """Inject the adapters, tune them alone and add the residuals; see ``LoRA.attach``."""
        classifier = super().attach(clip, class_names, templates)
        carried: dict[str, nn.Parameter] = {}
        for name, layer in classifier.clip.named_modules():
            if isinstance(layer, LoraLayer):
                names = residual_names(name.removeprefix(_PREFIX))
                carried |= dict(zip(names, add_residual(layer, self.residual_rank), strict=True))
        classifier.carried = carried
        return classifier

    def save(self, classifier: ClipClassifier, folder: Path) -> None:
        """Write a peft folder of rank ``r + R``, whose product holds both; see ``LoRA.save``."""
        peft_model = classifier.clip
        assert isinstance(peft_model, PeftModel)
        adapter = classifier.export()
        weights: Adapter = {}
        for module in pair_names(adapter):
            both = merged_of(adapter, module)
            name_a, name_b = factor_names(_PREFIX + module)
            weights[name_a], weights[name_b] = both.a, both.b
        config = copy.deepcopy(peft_model.active_peft_config)
        scale = next(iter(scalings(peft_model).values()))
        config.r += self.residual_rank
        config.lora_alpha = scale * (math.sqrt(config.r) if config.use_rslora else config.r)
        config.inference_mode = True
        folder.mkdir(parents=True, exist_ok=True)
        config.save_pretrained(str(folder))
        save_adapter(weights, folder / _WEIGHTS)

    def load(self, folder: Path) -> Adapter:
        """Return the adapter in a folder that ``save`` wrote, with its residuals apart again."""
        joined = super().load(folder)
        result: Adapter = {}
        for module in pair_names(joined):
            (name_a, name_b), (carried_a, carried_b) = factor_names(module), residual_names(module)
            rank = len(joined[name_a]) - self.residual_rank
            result[name_a], result[carried_a] = joined[name_a][:rank], joined[name_a][rank:]
            result[name_b], result[carried_b] = joined[name_b][:, :rank], joined[name_b][:, rank:]
        return as_adapter(result)


def add_residual(layer: LoraLayer, rank: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Let a layer add ``s B_r A_r x`` to what it returns, without dropout.

    Returns:
        ``A_r (R, i)`` and ``B_r (o, R)``, zero and frozen.
    """
    a = nn.Parameter(torch.zeros(rank, layer.in_features), requires_grad=False)
    b = nn.Parameter(torch.zeros(layer.out_features, rank), requires_grad=False)
    layer.register_parameter("residual_A", a)
    layer.register_parameter("residual_B", b)
    layer.register_forward_hook(_with_residual)
    return a, b


def _with_residual(layer: LoraLayer, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    if layer.disable_adapters:
        return output
    scale: float = next(iter(layer.scaling.values()))
    return output + scale * linear(linear(inputs[0], layer.residual_A), layer.residual_B)
