"""``adapter/README.md``: what the adapter is, how well it does, and how to load it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import printable
from fl2ora.experiment.fingerprint import code_fingerprint, library_versions
from fl2ora.reporting.sources import (
    CLIENTS_TEST,
    SERVER_TEST,
    central_sources,
    own_sources,
    title_of,
)
from fl2ora.reporting.tables import metrics_table, rows_with_calibrated, shown_metrics
from fl2ora.reporting.whole_files import write_whole

if TYPE_CHECKING:
    import pandas as pd

ADAPTER = "adapter"
PEFT_FILE = "adapter_config.json"
CARD = "README.md"
_HEAD = (
    "model", "method", "dataset", "partition", "strategy", "loss", "num-rounds", "seed",
)  # fmt: skip
_INTERVALS = ("Brackets hold 95 % bootstrap intervals over the test images.", "")
_LOAD_PEFT = """\
from peft import PeftModel
from transformers import AutoModel

clip = AutoModel.from_pretrained({model})
tuned = PeftModel.from_pretrained(clip, "adapter")
"""
_LOAD_PEFT_EMBEDDED = """\
from peft import PeftModel

from fl2ora.clip_tuning.clip import load_clip

clip = load_clip("embedded").model  # a CLIPModel of transformers
tuned = PeftModel.from_pretrained(clip, "adapter")
"""
_LOAD_OURS = """\
from pathlib import Path

from fl2ora import TuningMethod
from fl2ora.experiment.plugins import load

adapter = load({method}, TuningMethod).load(Path("adapter"))  # tensors by name
"""
_LOAD_MERGED = """\
from transformers import AutoModel, AutoTokenizer

clip = AutoModel.from_pretrained({name})
tokenizer = AutoTokenizer.from_pretrained({name})
"""
_PROMPTS = """
Class names and prompt templates are in `classifier.json`; the features of a class are the mean of
its templates' unit features, normalised again. `fl2ora predict` on this folder does all of it.

"""


def write_model_card(folder: Path, config: RunConfig) -> Path | None:
    """Write the card of a run's adapter from what the run directory holds.

    Args:
        folder: the run directory.
        config: of the run.

    Returns:
        The path; None where the run has no adapter.
    """
    adapter = folder / ADAPTER
    if not adapter.is_dir():
        return None
    is_peft = (adapter / PEFT_FILE).exists()
    card = model_card(
        folder,
        config,
        library="peft" if is_peft else "fl2ora",
        what="An adapter of CLIP",
        loading=_python(_loading(config, is_peft)),
    )
    write_whole(adapter / CARD, card)
    return adapter / CARD


def merged_card(folder: Path, config: RunConfig, name: str, calibrator: str) -> str:
    """Return the card of a whole model that a run's adapter was merged into.

    Args:
        folder: the run directory.
        config: of the run.
        name: of the folder with the model.
        calibrator: sentence on the one beside it.
    """
    loading = _python(_LOAD_MERGED.format(name=json.dumps(name)))
    return model_card(
        folder,
        config,
        library="transformers",
        what="A CLIP with its adapter merged in",
        loading=loading + _PROMPTS + calibrator,
    )


def peft_card(folder: Path, config: RunConfig, name: str, calibrator: str) -> str:
    """Return the card of an exported peft folder; see ``merged_card``."""
    loading = _loading(config, is_peft=True).replace(f'"{ADAPTER}"', json.dumps(name))
    return model_card(
        folder,
        config,
        library="peft",
        what="An adapter of CLIP",
        loading=_python(loading) + _PROMPTS + calibrator,
    )


def model_card(folder: Path, config: RunConfig, library: str, what: str, loading: str) -> str:
    """Return a card in Markdown: settings, accuracy and calibration before and after, loading.

    Args:
        folder: the run directory.
        config: of the run.
        library: that loads it.
        what: it is.
        loading: Markdown.
    """
    flat = config.flat()
    lines = [
        *_front_matter(config, library),
        f"# {printable(config.method)} on {printable(config.model)}",
        "",
        f"{what}, trained over federated clients with [Flower](https://flower.ai) by fl2ora.",
        "",
        *(f"- {key}: `{flat[key]}`" for key in _HEAD),
        *_metrics(folder),
        "",
        *(_INTERVALS if config.resamples else ()),
        "## Loading it",
        "",
        loading,
        f"Written by run `{folder.name}`; code {code_fingerprint()}, "
        + ", ".join(f"{name} {version}" for name, version in library_versions().items())
        + ". All settings: `run.json` of the run.",
        "",
    ]
    return "\n".join(lines)


def _python(code: str) -> str:
    return f"```python\n{code}```\n"


def _front_matter(config: RunConfig, library: str) -> list[str]:
    """Return the metadata that Hugging Face's hub reads."""
    lines = ["---", f"library_name: {library}"]
    if config.model != "embedded":
        lines.append(f"base_model: {json.dumps(config.model)}")
    tags = ["clip", "federated-learning", "calibration", *(["lora"] if library == "peft" else [])]
    return [*lines, "tags:", *(f"  - {tag}" for tag in tags), "---", ""]


def _metrics(folder: Path) -> list[str]:
    """Return a table of each part: before, after, and calibrated; else of the clients."""
    table = metrics_table(folder)
    lines: list[str] = []
    sources = central_sources(table["source"]) or [CLIENTS_TEST]
    for source in [*sources, *own_sources(table["source"])]:
        rows = rows_with_calibrated(table, source)
        measured = [row for row in rows if row[0] != "calibrated"]
        ends = (*measured[:1], *measured[-1:])
        shown = [row for row in rows if row in ends or row not in measured]
        if shown:
            head = ["after round", *(metric.title for metric in shown_metrics(table))]
            cells = [head, ["---:"] * len(head), *shown]
            lines += ["", f"## {_title(source)}", ""]
            lines += [f"| {' | '.join(row)} |" for row in cells]
            lines += _accuracy(table, source)
    return lines


def _accuracy(table: pd.DataFrame, source: str) -> list[str]:
    """Return a sentence on the final accuracy with its interval; nothing where there is none."""
    rows = table[table["source"] == source].sort_values("round")
    if not {"accuracy", "accuracy_low", "accuracy_high"} <= set(rows.columns):
        return []
    value, low, high = (
        100 * float(rows[name].iloc[-1]) for name in ("accuracy", "accuracy_low", "accuracy_high")
    )
    if low != low:
        return []
    return ["", f"Accuracy after training: {value:.2f} % [{low:.2f}, {high:.2f}]."]


def _title(source: str) -> str:
    return "Central held-out set" if source == SERVER_TEST else printable(title_of(source))


def _loading(config: RunConfig, is_peft: bool) -> str:
    if not is_peft:
        return _LOAD_OURS.format(method=repr(config.method))
    template = _LOAD_PEFT_EMBEDDED if config.model == "embedded" else _LOAD_PEFT
    return template.format(model=json.dumps(config.model))
