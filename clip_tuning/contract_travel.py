"""The part of a tuning method's contract that is about what travels and what is saved."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from fl2ora.clip_tuning.adapter import Adapter, AdapterError
from fl2ora.clip_tuning.contract_probe import (
    ATOL,
    Make,
    assert_close,
    assert_equal,
    logits_of,
    moved,
    other_personal,
)
from fl2ora.clip_tuning.methods.base import TuningMethod


def check_export(make: Make) -> None:
    """An export is sorted, float32, a copy, and restores to the same logits."""
    one, two = moved(make()), make(seed=1)
    export = one.export()
    assert list(export) == sorted(export), "export: expected sorted names"
    for name, tensor in export.items():
        assert tensor.dtype == torch.float32, f"export: {name} is {tensor.dtype}, not float32"
    two.restore(export)
    assert_equal(two.export(), export, "restore: what was exported comes back different in")
    assert_close(logits_of(two), logits_of(one), 0.0, "restore: an export gives different logits")
    for tensor in export.values():
        tensor.fill_(7.0)
    found = one.export()
    shared = [
        name for name in export if export[name].numel() and torch.equal(found[name], export[name])
    ]
    assert not shared, f"export: {shared} are no copies"


def check_strict_restore(make: Make) -> None:
    """Restoring refuses an adapter that does not fit, and changes nothing then."""
    classifier = make()
    before = classifier.export()
    changed = {name: tensor + 1 for name, tensor in before.items()}
    wrong: dict[str, Adapter] = {"with a name it does not know": {**changed, "?": torch.zeros(1)}}
    for name, tensor in before.items():
        wrong[f"without {name}"] = {k: v for k, v in changed.items() if k != name}
        wrong[f"with {name} in another shape"] = {**changed, name: tensor[None]}
        wrong[f"with NaN in {name}"] = {**changed, name: torch.full_like(tensor, torch.nan)}
        break  # one tensor stands for all
    for what, adapter in wrong.items():
        try:
            classifier.restore(adapter)
        except AdapterError:
            assert_equal(classifier.export(), before, f"restore: an adapter {what} has changed")
        else:
            raise AssertionError(f"restore: an adapter {what} was accepted")


def check_files(tuning: TuningMethod, make: Make) -> None:
    """What is saved loads and gives equal logits."""
    classifier, fresh = moved(make()), make(seed=1)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "new" / "adapter"
        tuning.save(classifier, target)
        fresh.restore(tuning.load(target))
    assert_close(logits_of(fresh), logits_of(classifier), 0.0, "save, load: logits differ")


def check_personal(make: Make) -> None:
    """Personal parts do not travel, and play a part within ``as_client`` only."""
    classifier = make()
    own = classifier.export_personal()
    both = own.keys() & classifier.export().keys()
    assert not both, f"personal: {sorted(both)} would travel"
    shared = {id(p) for p in classifier.personal.values()} & {
        id(p) for p in [*classifier.tuned.values(), *classifier.carried.values()]
    }
    assert not shared, "personal: a personal parameter travels under another name"
    alone = logits_of(classifier)
    other = other_personal(classifier)
    with classifier.as_client(other):
        assert_equal(classifier.export_personal(), other, "personal: as_client did not load")
        changed = logits_of(classifier)
    if own:
        assert not torch.allclose(changed, alone, atol=ATOL), "personal: it plays no part"
    assert_close(
        logits_of(classifier), alone, 0.0, "personal: it plays a part outside of as_client"
    )
    with classifier.as_client({}):
        assert_equal(classifier.export_personal(), own, "personal: a new client starts elsewhere")
