"""What every tuning method promises, checked for every file in ``clip_tuning/methods``."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import pytest
import torch

import method_laws as laws
from fl2ora.clip_tuning import build as building
from fl2ora.clip_tuning import methods
from fl2ora.clip_tuning.build import build_classifier
from fl2ora.clip_tuning.clip import load_clip
from fl2ora.clip_tuning.methods import fedotp
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.clip_tuning.prediction import predict
from fl2ora.experiment.plugins import available, find, load
from fl2ora.experiment.spec import parse_spec
from fl2ora.federated_data.images import LabelledImages
from method_laws import NAMES, TEMPLATES, build, changed, logits_of, some_pixels
from method_specs import ALL, SPECS

Maker = Callable[..., LabelledImages]
FILES = sorted(
    path.stem
    for path in Path(methods.__file__).parent.glob("*.py")
    if path.stem != "base" and not path.stem.startswith("_")
)

TRAINED = [spec for spec in ALL if spec.partition("(")[0] not in ("zero_shot", "tip_adapter")]

# Methods whose first logits are zero-shot CLIP's, by what their documentation says.
FROM_ZERO_SHOT = [
    *SPECS["bitfit"],
    *SPECS["full"],
    *SPECS["layer_norm"],
    *SPECS["lora"],
    *SPECS["lora_residual"],
    *SPECS["logit_scale"][:2],
    *SPECS["task_res"],
    *SPECS["tip_adapter"],
    *SPECS["tip_adapter_f"],
    "clip_adapter(ratio=0.0)",
    "fedpgp(length=4, init='template')",
    "kgcoop",
    "linear_probe",
    "linear_probe(bias=False)",
    "prograd(length=4)",
    "coop(length=1, init='template')",
    "coop(length=12, init='template')",
    "coop(length=3, init='a photo of a')",
    "coop(length=4, init='template', class_specific=True)",
    "zero_shot",
]


@pytest.fixture(scope="module")
def folder(tiny_clip_folder: Path) -> Iterator[str]:
    """Return the tiny model's folder, which is read once and copied from then on."""
    read = lru_cache(load_clip)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "load_clip", lambda name: copy.deepcopy(read(name)))
        yield str(tiny_clip_folder)


def test_every_method_file_is_in_the_spec_list() -> None:
    assert len(FILES) == 26
    assert sorted(SPECS) == FILES
    assert available(TuningMethod) == FILES
    for name, specs in SPECS.items():
        assert specs[0] == name
        assert all(spec.partition("(")[0] == name for spec in specs)


@pytest.mark.parametrize("name", sorted(set(FILES) - {"lora_residual", "prompt"}))
def test_the_documentation_has_its_defaults(name: str) -> None:
    """In the table of docs/tuning.md, as a spec string that loads."""
    cls = find(parse_spec(name), TuningMethod)
    defaults = [f"{p.name}={p.default!r}" for p in inspect.signature(cls).parameters.values()]
    spec = f"{name}({', '.join(defaults)})" if defaults else name
    page = Path(__file__).parents[2] / "docs" / "tuning.md"
    assert f"| `{spec}` |" in page.read_text(encoding="utf-8")
    assert load(spec, TuningMethod)


@pytest.mark.parametrize("spec", TRAINED)
def test_every_tuned_tensor_changes_the_logits(folder: str, spec: str) -> None:
    laws.every_tuned_tensor_matters(folder, spec)


@pytest.mark.parametrize("spec", FROM_ZERO_SHOT)
def test_first_logits_equal_zero_shot(folder: str, spec: str) -> None:
    laws.starts_at_zero_shot(folder, spec)


@pytest.mark.parametrize("spec", TRAINED)
def test_training_changes_what_is_exported_and_nothing_else(
    folder: str, spec: str, random_images: Maker
) -> None:
    laws.training_changes_what_is_exported_and_nothing_else(folder, spec, random_images(6))


@pytest.mark.parametrize("spec", ALL)
def test_frozen_flags_equal_what_the_forward_pass_shows(folder: str, spec: str) -> None:
    laws.what_is_called_frozen_is(folder, spec)


@pytest.mark.parametrize("spec", ALL)
def test_logits_from_separately_encoded_images_and_classes_equal_forward(
    folder: str, spec: str, random_images: Maker
) -> None:
    classifier = changed(build(folder, spec))
    images = random_images(5).images[:]
    pixels = classifier.preprocessing.evaluation(images)
    with torch.no_grad():
        passed = classifier.run(pixels)
        apart = [
            classifier.logits(classifier.encode_images(part), passed.classes)
            for part in pixels.split(2)
        ]
        assert torch.equal(classifier(pixels), passed.logits)
    assert passed.logits.shape == (5, 3)
    assert passed.logits.dtype == torch.float32
    torch.testing.assert_close(torch.cat(apart), passed.logits, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(predict(classifier, images, 2), passed.logits, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("spec", ALL)
def test_features_have_length_one(folder: str, spec: str) -> None:
    classifier = changed(build(folder, spec))
    with torch.no_grad():
        passed = classifier.run(some_pixels())
    lengths = passed.images.norm(dim=-1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))
    assert classifier.pooled_images(passed.images).shape == (4, 16)
    assert classifier.pooled_classes(passed.classes).shape == (3, 16)
    if not spec.startswith("linear_probe"):
        lengths = passed.classes.norm(dim=-1)
        torch.testing.assert_close(lengths, torch.ones_like(lengths))


@pytest.mark.parametrize("spec", ALL)
def test_encode_names_of_class_names_equals_encode_classes(folder: str, spec: str) -> None:
    """But for methods that tune something of each class's own."""
    classifier = changed(build(folder, spec))
    with torch.no_grad():
        found = classifier.encode_names([*NAMES, "a longer name"])[:3]
        classes = classifier.pooled_classes(classifier.encode_classes())
    own = spec.startswith(("linear_probe", "task_res")) or "class_specific" in spec
    assert torch.allclose(found, classes, rtol=0, atol=1e-5) != own


@pytest.mark.parametrize("spec", FILES)
def test_half_precision_forward(folder: str, spec: str) -> None:
    laws.half_precision_forward(folder, spec)


@pytest.mark.parametrize("spec", FILES)
def test_defaults_run_on_the_embedded_model(folder: str, spec: str) -> None:
    classifier = build_classifier("embedded", spec, NAMES, ("a picture of a {}.",), 0)
    found = logits_of(classifier)
    assert found.shape == (4, 3)
    assert bool(torch.isfinite(found).all())


@pytest.mark.parametrize("spec", FILES)
def test_several_prompt_templates_are_accepted(folder: str, spec: str) -> None:
    templates = ("a photo of a {}.", "a drawing of the {}, on paper.", "{}")
    classifier = build_classifier(folder, spec, NAMES, templates, 0)
    assert logits_of(classifier).shape == (4, 3)


@pytest.mark.parametrize("spec", FILES)
def test_a_single_class(folder: str, spec: str) -> None:
    classifier = build_classifier(folder, spec, ("cat",), TEMPLATES, 0)
    assert logits_of(classifier).shape == (4, 1)


@pytest.mark.parametrize("spec", ALL)
def test_every_tensor_moves_to_the_device(
    folder: str, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A plan asks whether it is done, which needs values.
    monkeypatch.setattr(fedotp, "transport_plan", lambda cost, *_: torch.zeros_like(cost))
    laws.nothing_stays_behind_when_it_moves(folder, spec)
