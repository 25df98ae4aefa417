"""Finding and constructing plug-ins: ours by file name, anyone's by path, and what goes wrong."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from fl2ora.calibration.calibrators.base import Calibrator
from fl2ora.calibration.losses.base import Loss
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.clip_tuning.methods.lora import LoRA
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import available, find, load
from fl2ora.experiment.spec import parse_spec
from fl2ora.federated_data.datasets.base import Dataset
from fl2ora.federated_data.partition.base import Partitioner
from fl2ora.federated_data.partition.dirichlet import Dirichlet
from fl2ora.federated_data.protocols.base import Protocol
from fl2ora.federated_data.protocols.leave_one_domain_out import LeaveOneDomainOut
from fl2ora.strategies.attacks.base import Attack
from fl2ora.strategies.base import Strategy

PARTITIONS = "federated_data/partition"
BASES = {
    "calibration/calibrators": Calibrator,
    "calibration/losses": Loss,
    "clip_tuning/methods": TuningMethod,
    "federated_data/datasets": Dataset,
    "federated_data/partition": Partitioner,
    "federated_data/protocols": Protocol,
    "strategies": Strategy,
    "strategies/attacks": Attack,
}
KNOWN = {
    "calibration/calibrators": {"temperature", "isotonic"},
    "calibration/losses": {"cross_entropy", "dca"},
    "clip_tuning/methods": {"lora", "zero_shot"},
    "federated_data/datasets": {"shapes", "fashion_mnist"},
    "federated_data/partition": {"dirichlet", "iid"},
    "federated_data/protocols": {"in_distribution", "leave_one_domain_out"},
    "strategies": {"fedavg", "flexlora"},
    "strategies/attacks": {"scaling"},
}


def _modules(folder: str) -> list[str]:
    """Return the full names of the modules in a folder of the package and below it."""
    package = importlib.import_module(f"fl2ora.{folder.replace('/', '.')}")
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    return [info.name for info in found if not info.ispkg]


def _offered(folder: str, module_name: str) -> list[str]:
    """Return the public classes in one file that may be constructed as its folder's plug-ins."""
    module = importlib.import_module(module_name)
    return [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, BASES[folder])
        and value.__module__ == module.__name__
        and not inspect.isabstract(value)
        and not name.startswith("_")
    ]


EVERY_FILE = [
    (folder, module)
    for folder in BASES
    for module in _modules(folder)
    if (name := module.rpartition(".")[2]) != "base" and not name.startswith("_")
]


@pytest.mark.parametrize("folder", BASES)
def test_the_valid_names_are_the_files_with_a_plug_in(folder: str) -> None:
    files = [module for f, module in EVERY_FILE if f == folder]
    offered = sorted(m.rpartition(".")[2] for m in files if _offered(folder, m))
    assert available(BASES[folder]) == offered
    assert KNOWN[folder] <= set(offered)


@pytest.mark.parametrize("folder", BASES)
def test_no_two_files_of_a_folder_share_a_name(folder: str) -> None:
    names = [module.rpartition(".")[2] for f, module in EVERY_FILE if f == folder]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("folder", "module"), EVERY_FILE)
def test_every_file_loads_by_its_name_or_says_why_not(folder: str, module: str) -> None:
    name, offered = module.rpartition(".")[2], _offered(folder, module)
    assert len(offered) <= 1, f"{name} has several, so that none can be told by the file's name"
    try:
        made = load(name, BASES[folder])
    except UserError as error:
        reason = str(error)
    else:
        assert [type(made).__name__] == offered
        return
    if offered:  # only what has no default, or is not on this machine, may be asked for
        assert re.match(rf"{name}: (missing a required argument|folder: expected )", reason)
    else:
        assert reason.startswith(f"{folder} has no '{name}' (valid: ")


def test_arguments_arrive() -> None:
    made = load("dirichlet(0.1, minimum=3)", Partitioner)
    assert isinstance(made, Dirichlet)
    assert (made.beta, made.minimum) == (0.1, 3)


def test_a_parsed_spec_is_as_good_as_its_text() -> None:
    assert isinstance(load(parse_spec("iid"), Partitioner), Partitioner)


def test_hyphens_name_files_with_underscores() -> None:
    made = load("leave-one-domain-out(domain='neon')", Protocol)
    assert isinstance(made, LeaveOneDomainOut)


def test_finding_does_not_construct() -> None:
    assert find(parse_spec("lora(rank=-1)"), TuningMethod) is LoRA


@pytest.mark.parametrize(
    "name", ["dirchlet", "DIRICHLET", "base", "_hidden", "__init__", "no_such"]
)
def test_an_unknown_name_is_answered_with_the_valid_ones(name: str) -> None:
    with pytest.raises(UserError) as caught:
        load(name, Partitioner)
    message = str(caught.value)
    assert f"{PARTITIONS} has no {name!r} (valid: dirichlet, iid" in message
    assert ("did you mean 'dirichlet'?" in message) == (name == "dirchlet")


def test_a_file_without_a_plug_in_is_no_plug_in() -> None:
    with pytest.raises(UserError, match=r"has no 'replies' \(valid: .*fedavg"):
        load("replies", Strategy)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("dirichlet(beat=0.1)", "beat"),
        ("dirichlet(1, 2, 3)", "too many positional arguments"),
        ("dirichlet(0.1, beta=0.1)", "multiple values for argument 'beta'"),
        ("iid(beta=0.1)", "beta"),
    ],
)
def test_arguments_that_do_not_fit_are_answered_with_the_valid_ones(text: str, found: str) -> None:
    with pytest.raises(UserError) as caught:
        load(text, Partitioner)
    assert found in str(caught.value)
    valid = "beta, minimum" if text.startswith("dirichlet") else "(none)"
    assert f"(valid arguments: {valid})" in str(caught.value)
    assert ("did you mean 'beta'?" in str(caught.value)) == ("beat=" in text)


def test_a_required_argument_that_is_left_out_is_named() -> None:
    with pytest.raises(UserError, match="missing a required argument: 'domain'"):
        load("leave_one_domain_out", Protocol)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dirichlet(beta='x')", r"dirichlet: beta: expected float, found 'x' \(str\)"),
        ("dirichlet(beta=True)", r"dirichlet: beta: expected float, found True \(bool\)"),
        ("dirichlet(beta=None)", r"dirichlet: beta: expected float, found None \(NoneType\)"),
        ("dirichlet(minimum=2.0)", r"dirichlet: minimum: expected int, found 2.0 \(float\)"),
        ("dirichlet(1, True)", r"dirichlet: minimum: expected int, found True \(bool\)"),
        ("dirichlet(beta=-1.0)", r"dirichlet: beta: expected a finite number above 0, found -1.0"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(text: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        load(text, Partitioner)


def test_a_whole_number_may_stand_for_a_float_but_not_a_truth_value() -> None:
    assert load("dirichlet(beta=1)", Partitioner)
    for text in ("lora(rslora=1)", "lora(rslora='yes')", "lora(targets=1)"):
        with pytest.raises(UserError, match=r"expected (bool|str), found"):
            load(text, TuningMethod)


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the name of a module that lies outside the repository."""
    name = "someones_lab"
    (tmp_path / f"{name}.py").write_text(
        dedent("""
        from __future__ import annotations
        from abc import abstractmethod
        from typing import TYPE_CHECKING, Any
        from fl2ora.federated_data.partition.base import Partitioner
        if TYPE_CHECKING:
            from nowhere import Unseen

        class Halves(Partitioner):
            def __init__(self, first: float = 0.5, *rest: int, anything: Any = None, **more: float):
                self.given = (first, rest, anything, more)
            def split(self, labels, num_clients, rng):
                return []

        class Hinted(Halves):
            def __init__(self, unseen: Unseen = None, count: int = 1):
                self.given = (unseen, count)

        class Unfinished(Partitioner):
            pass

        class Stranger:
            pass

        number = 3
        """)
    )
    (tmp_path / "needs_more.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    for module in (name, "needs_more"):
        sys.modules.pop(module, None)


def test_a_class_outside_the_repository_is_found_by_its_path(outside: str) -> None:
    made = load(f"{outside}:Halves(0.25)", Partitioner)
    assert type(made).__name__ == "Halves"
    assert made.given == (0.25, (), None, {})  # type: ignore[attr-defined]


def test_open_ended_arguments_are_checked_one_by_one(outside: str) -> None:
    made = load(f"{outside}:Halves(1, 2, 3, anything=[4], x=5)", Partitioner)
    assert made.given == (1, (2, 3), [4], {"x": 5})  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="Halves: rest: expected int, found 'two'"):
        load(f"{outside}:Halves(1, 2, 'two')", Partitioner)
    with pytest.raises(UserError, match="Halves: more: expected float, found 'five'"):
        load(f"{outside}:Halves(x='five')", Partitioner)


def test_types_known_to_type_checkers_only_are_not_in_the_way(outside: str) -> None:
    made = load(f"{outside}:Hinted(unseen='x', count=2)", Partitioner)
    assert made.given == ("x", 2)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no_such_lab:Halves", "no_such_lab:Halves: cannot import 'no_such_lab': No module named"),
        ("needs_more:X", "cannot import 'needs_more': No module named 'no_such_library'"),
        ("someones_lab:Halfs", "someones_lab has no class 'Halfs'; did you mean 'Halves'?"),
        ("someones_lab:number", "someones_lab has no class 'number'"),
        ("someones_lab:Stranger", "someones_lab:Stranger is not a Partitioner"),
        ("someones_lab:Unfinished", "abstract"),
        ("collections:OrderedDict", "collections:OrderedDict is not a Partitioner"),
    ],
)
def test_what_is_wrong_outside_is_named(outside: str, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(text, Partitioner)
    assert message in str(caught.value)


class Shape(ABC):
    """A contract for the package below."""

    @abstractmethod
    def area(self) -> float:
        """Return it."""


def test_a_new_file_is_all_a_plug_in_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "someones_shapes"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "base.py").write_text(f"from {__name__} import Shape\n")
    square = """
        from someones_shapes.base import Shape
        class _Helper(Shape):
            def area(self): return 0.0
        class Common(Shape):  # abstract: no plug-in
            pass
        class Square(Common):
            def __init__(self, side: float = 1.0): self.side = side
            def area(self): return self.side ** 2
        """
    (package / "square.py").write_text(dedent(square))
    (package / "two.py").write_text(
        dedent(square).replace("Square", "A") + dedent(square).replace("Square", "B")
    )
    (package / "again.py").write_text("from someones_shapes.square import Square\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert available("someones_shapes", Shape) == ["square"]
        assert load("square(side=3)", "someones_shapes", Shape).area() == 9
    finally:
        for name in [n for n in sys.modules if n.startswith("someones_shapes")]:
            del sys.modules[name]
