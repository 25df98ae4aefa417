"""FL2oRA: low-rank adapters on the attention of both CLIP towers.

Singha et al. 2025, arXiv 2512.04305; placement of CLIP-LoRA, Zanella & Ben Ayed 2024, arXiv
2405.18541; LoRA, Hu et al. 2021, arXiv 2106.09685; rank-stabilised scaling, Kalajdzievski 2023,
arXiv 2312.03732; DoRA, Liu et al. 2024, arXiv 2402.09353.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers import CLIPModel, SiglipModel

from fl2ora.clip_tuning.adapter import Adapter, load_adapter
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.low_rank import compute_faster
from fl2ora.clip_tuning.methods.base import Rates, TuningMethod
from fl2ora.clip_tuning.prefix.upper_blocks import UpperBlocksClassifier
from fl2ora.clip_tuning.selection import TOWER_CHOICES, chosen_blocks, chosen_towers, parse_blocks
from fl2ora.experiment.arguments import MOST, choice, number

_PREFIX = "base_model.model."
_ACTIVE = ".default"
_MAGNITUDE = "lora_magnitude_vector"  # DoRA's; a module in memory, a plain tensor in files
_KEEP_BASE = (True, False, "gaussian", "eva", "orthogonal")  # initialisations that leave W alone
_ELSEWHERE = ("bias", "modules_to_save", "trainable_token_indices", "layer_replication")
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class LoRA(TuningMethod):
    """LoRA ``W + s B A`` with ``s = alpha / sqrt(rank)`` (rsLoRA) or ``alpha / rank``.

    ``B`` starts at zero, so the first logits are zero-shot CLIP's. On ViT-B/16 rank 2 on q, k and
    v of both towers has 184,320 parameters.

    Args:
        rank: r of ``A (r, i)`` and ``B (o, r)``.
        alpha: numerator of the scaling s, above 0.
        dropout: on the input of the LoRA branch, in training only.
        towers: ``both``, ``vision`` or ``text``.
        targets: comma-separated layers of each block: q, k, v, o of its attention, fc1, fc2 of its
            MLP.
        rslora: scale by ``sqrt(rank)`` as the FL2oRA code does, else by ``rank``.
        blocks: ``all``; ``top3``; a third: ``bottom``, ``mid``, ``up``; a half: ``half-bottom``,
            ``half-up``; or comma-separated indices from 0, in each tower.
        dora: tune the lengths of the weights' rows as well (DoRA).
        start: folder with a LoRA adapter as peft saves one, to be found on every node. It brings
            its own settings, so no other argument may stand beside it. One whose initialisation
            changed the base weights (PiSSA, OLoRA) is refused.
    """

    learning_rates = Rates(
        embedded=0.1,  # 0.3 gains more; 0.1 is what the README's runs have
        published=0.001,
        source="FL2oRA's code (Singha et al. 2025): SGD",
    )

    LAYERS: ClassVar[dict[str, str]] = {
        "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
        "o": "self_attn.out_proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2",
    }  # fmt: skip

    def __init__(
        self,
        rank: int = 2,
        alpha: float = 1.0,
        dropout: float = 0.25,
        towers: str = "both",
        targets: str = "q,k,v",
        rslora: bool = True,
        blocks: str = "all",
        dora: bool = False,
        start: str = "",
    ) -> None:
        layers = [layer.strip() for layer in targets.split(",")]
        if not 1 <= rank <= MOST:
            bound = "at least 1" if rank < 1 else f"at most {MOST}"
            raise ValueError(f"rank: expected {bound}, found {rank}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected 0 <= dropout < 1, found {dropout}")
        if any(layer not in self.LAYERS for layer in layers):
            raise ValueError(
                f"targets: expected names among {', '.join(self.LAYERS)}, found {targets!r}"
            )
        self.towers = chosen_towers(choice("towers", towers, TOWER_CHOICES))
        self.blocks = parse_blocks(blocks)
        self.layers = "|".join(self.LAYERS[layer].replace(".", r"\.") for layer in layers)
        self.options = {
            "r": rank,
            "lora_alpha": number("alpha", alpha, above=0),
            "lora_dropout": dropout,
            "use_rslora": rslora,
            "use_dora": dora,
        }
        self.start = Path(start).expanduser() if start else None
        if self.start:
            _check_alone(rank, alpha, dropout, towers, targets, rslora, blocks, dora)

    def attach(
        self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]
    ) -> ClipClassifier:
        """Inject the adapters and tune them alone; names are peft's without its wrapper prefix.

        Raises:
            ValueError: the model has no such blocks, or the folder to start from does not fit.
        """
        config = self._config(clip.model)
        classifier = UpperBlocksClassifier(clip, class_names, templates)
        with _naming(self.start):
            peft_model = get_peft_model(clip.model, config)
        compute_faster(peft_model)
        classifier.clip = peft_model
        tuned = {
            _travelling(name): parameter
            for name, parameter in peft_model.named_parameters()
            if "lora_" in name
        }
        classifier.tune(tuned)
        classifier.tune_from(tuned)
        if self.start:
            classifier.restore(self.load(self.start))
        return classifier

    def save(self, classifier: ClipClassifier, folder: Path) -> None:
        """Write a peft folder: ``PeftModel.from_pretrained(CLIPModel, folder)`` loads it."""
        peft_model = classifier.clip
        assert isinstance(peft_model, PeftModel)
        peft_model.save_pretrained(str(folder), safe_serialization=True)

    def load(self, folder: Path) -> Adapter:
        """Return the adapter in a peft folder; see ``TuningMethod.load``."""
        saved = load_adapter(folder / _WEIGHTS)
        return {name.removeprefix(_PREFIX): saved[name] for name in sorted(saved)}

    def _config(self, model: CLIPModel | SiglipModel) -> LoraConfig:
        """Return peft's description of what is injected into ``model``."""
        if self.start:
            return _read_config(self.start)
        paths = []
        for tower in self.towers:
            indices = "|".join(map(str, chosen_blocks(model, tower, self.blocks)))
            paths.append(rf"{tower}_model\.encoder\.layers\.({indices})\.({self.layers})")
        return LoraConfig(target_modules="|".join(paths), **self.options)


def _travelling(name: str) -> str:
    """Return peft's name of a parameter as it stands in files, without the wrapper's prefix."""
    name = name.removeprefix(_PREFIX).replace(_ACTIVE, "")
    return name.removesuffix(".weight") if _MAGNITUDE in name else name


def _check_alone(*given: object) -> None:
    """Refuse arguments of ``LoRA``, in order, that are not their defaults.

    Raises:
        ValueError: names them.
    """
    parameters = inspect.signature(LoRA).parameters.values()
    others = [p.name for p, value in zip(parameters, given, strict=False) if value != p.default]
    if others:
        raise ValueError(
            f"start: expected no argument beside it, since the folder brings its own settings, "
            f"found {', '.join(others)}"
        )


@contextmanager
def _naming(folder: Path | None) -> Iterator[None]:
    """Name the file of settings in what peft raises over it: it may hold anything."""
    try:
        yield
    except Exception as error:  # peft raises all kinds
        if folder is None:
            raise
        lines = str(error).strip().splitlines() or [""]
        raise ValueError(
            f"start: {folder / _CONFIG}: expected settings of a LoRA adapter that fit the model, "
            f"found {type(error).__name__}: {lines[0]}"
        ) from error


def _read_config(folder: Path) -> LoraConfig:
    """Return the settings of the LoRA adapter in a peft folder.

    Raises:
        ValueError: there is none, it is damaged, or it tunes more than low-rank factors.
    """
    if not (folder / _CONFIG).is_file() or not (folder / _WEIGHTS).is_file():
        raise ValueError(
            f"start: expected a folder with {_CONFIG} and {_WEIGHTS}, found none at {str(folder)!r}"
        )
    with _naming(folder):
        config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig):
        kind = getattr(config.peft_type, "value", config.peft_type)
        raise ValueError(f"start: expected a LoRA adapter, found {kind} in {str(folder)!r}")
    if config.init_lora_weights not in _KEEP_BASE:
        raise ValueError(
            f"start: expected an adapter to the model's own weights, found one that began with "
            f"init_lora_weights={config.init_lora_weights!r}, which changes them, in "
            f"{str(folder)!r}; peft makes a plain one of it by "
            f"save_pretrained(path_initial_model_for_weight_conversion=...)"
        )
    scales = {"lora_alpha": config.lora_alpha, **config.alpha_pattern}
    for name, alpha in scales.items():
        number(f"start: {folder / _CONFIG}: {name}", alpha, above=0)
    dropout = config.lora_dropout
    number(f"start: {folder / _CONFIG}: lora_dropout", dropout, at_least=0, below=1)
    for name in _ELSEWHERE:
        if (value := getattr(config, name, None)) and value != "none":
            raise ValueError(
                f"start: expected an adapter of low-rank factors alone, found {name}={value!r} in "
                f"{str(folder / _CONFIG)!r}"
            )
    config.inference_mode = False
    config.init_lora_weights = True  # its values are loaded anyway
    return config
