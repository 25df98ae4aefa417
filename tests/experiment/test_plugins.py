"""Finding and constructing plug-ins: ours by file name, anyone's by path, and what goes wrong."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
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
from fl2ora.experiment.spec import Spec, parse_spec
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
        assert re.match(rf"{name}: (missing a required argument|(folder|root): expected )", reason)
    else:
        assert reason.startswith(f"{folder} has no '{name}' (valid: ")


def test_spec_arguments_reach_the_constructor() -> None:
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
    assert f"{PARTITIONS} has no {name!r} (valid: classes, coarse_dirichlet," in message
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
        from typing import TYPE_CHECKING, Annotated, Any, Literal
        from pydantic import Field
        from fl2ora.experiment.errors import UserError
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

        class Failing(Halves):
            def __init__(self, count: int = 0):
                if count == 0:
                    {}["no key"]
                if count == 1:
                    raise ValueError("no number")
                raise UserError("count: expected less than 2, found 2")

        class Limited(Halves):
            def __init__(
                self,
                rank: Annotated[int, Field(ge=1, le=64)] = 1,
                share: Annotated[float, Field(gt=0, le=1)] | None = None,
                kind: Literal["one", "two"] = "one",
            ):
                self.given = (rank, share, kind)

        class Stranger:
            pass

        number = 3
        """)
    )
    (tmp_path / "needs_more.py").write_text("import no_such_library\n")
    (tmp_path / "broken_text.py").write_text("x = 1\ny = (\n")
    (tmp_path / "broken_run.py").write_text("def f(): \n    return 1 / 0\nf()\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    for module in (name, "needs_more", "broken_text", "broken_run", "leaves"):
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
        ("needs_more:X", "needs_more.py, line 1)"),
        ("needs_more:X", "'needs_more': ModuleNotFoundError: No module named 'no_such_library' (/"),
        ("broken_text:X", "broken_text.py, line 2)"),
        ("broken_run:X", "'broken_run': ZeroDivisionError: division by zero (/"),
        ("broken_run:X", "broken_run.py, line 2)"),
        ("leaves:X", "cannot import 'leaves': SystemExit: 3 (/"),
        ("someones_lab:Halfs", "someones_lab has no class 'Halfs'; did you mean 'Halves'?"),
        ("someones_lab:number", "someones_lab has no class 'number'"),
        ("someones_lab:Stranger", "someones_lab:Stranger is not a Partitioner"),
        ("someones_lab:Unfinished", "someones_lab:Unfinished is abstract: it lacks split"),
        ("someones_lab:Failing", "Failing: KeyError: 'no key' (/"),
        ("someones_lab:Failing", "someones_lab.py, line 27)"),
        ("someones_lab:Failing(1)", "Failing: ValueError: no number (/"),
        ("someones_lab:Failing(2)", "Failing: count: expected less than 2, found 2"),
        ("someones_lab:Halves(9e9)", "Halves: first: expected numbers of at most 2147483647 in"),
        ("someones_lab:Halves(anything=[{'a': 1e308}])", "Halves: anything: expected numbers of"),
        ("someones_lab:Halves(1, 9999999999)", "Halves: rest: expected numbers of at most"),
        ("someones_lab:Halves(1e999)", "Halves: first: expected a finite number, found inf"),
        ("someones_lab:Limited(0)", "Limited: rank: expected at least 1 and at most 64, found 0"),
        ("someones_lab:Limited(65)", "Limited: rank: expected at least 1 and at most 64, found 65"),
        ("someones_lab:Limited(1.0)", "Limited: rank: expected int, found 1.0 (float)"),
        ("someones_lab:Limited(share='x')", "share: expected float or None, found 'x' (str)"),
        ("someones_lab:Limited(share=2)", "share: expected more than 0 and at most 1, found 2"),
        ("someones_lab:Limited(kind='onee')", "expected one of one, two, found 'onee'; did you m"),
        ("someones_lab:Limited(kind=1)", "kind: expected one of one, two, found 1 (int)"),
        ("collections:OrderedDict", "collections:OrderedDict is not a Partitioner"),
    ],
)
def test_errors_in_external_plug_ins_are_named(outside: str, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(text, Partitioner)
    assert message in str(caught.value)


def test_a_new_file_is_all_a_plug_in_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "someones_shapes"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "base.py").write_text(
        dedent("""
        from abc import ABC, abstractmethod
        class Shape(ABC):
            @abstractmethod
            def area(self): ...
    """)
    )
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
    base = importlib.import_module("someones_shapes.base")
    try:
        assert available(base.Shape) == ["square"]
        assert load("square(side=3)", base.Shape).area() == 9
    finally:
        for name in [n for n in sys.modules if n.startswith("someones_shapes")]:
            del sys.modules[name]


def test_a_broken_file_beside_the_plug_ins_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "someones_tools"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "base.py").write_text("class Tool: ...\n")
    (package / "mine.py").write_text("\nfrom os import no_such_thing\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    base = importlib.import_module("someones_tools.base")
    try:
        for spec in ("mine", "other"):
            with pytest.raises(
                UserError, match=r"cannot import 'someones_tools\.mine': .*mine.py, l"
            ):
                load(spec, base.Tool)
    finally:
        for name in [n for n in sys.modules if n.startswith("someones_tools")]:
            del sys.modules[name]


def test_limits_of_an_annotation_are_kept(outside: str) -> None:
    made = load(f"{outside}:Limited(64, share=1, kind='two')", Partitioner)
    assert made.given == (64, 1, "two")  # type: ignore[attr-defined]
    assert load(f"{outside}:Limited(share=None)", Partitioner)


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("lora(rank=1000000000)", TuningMethod),
        ("lora(alpha=1e308)", TuningMethod),
        ("vpt(length=100000)", TuningMethod),
        ("clip_adapter(reduction=100000)", TuningMethod),
        ("tip_adapter(shots=1000000)", TuningMethod),
        ("shapes(train=10000000000)", Dataset),
        ("shapes(test=1000000000)", Dataset),
        ("fashion_mnist(train=1000000000)", Dataset),
        ("fedprox(mu=1e300)", Strategy),
        ("isotonic(bins=1000000000)", Calibrator),
        ("order_preserving(hidden=1000000)", Calibrator),
        ("soft_binned_ece(num_bins=1000000000)", Loss),
        ("focal(gamma=1e200)", Loss),
    ],
)
def test_sizes_beyond_all_use_are_refused_at_once(text: str, base: type) -> None:
    with pytest.raises(UserError, match=r"expected .*, found 1"):
        load(text, base)


@pytest.mark.parametrize("folder", BASES)
def test_any_number_is_taken_or_refused_in_one_short_line(folder: str) -> None:
    base, said = BASES[folder], []
    for name in available(base):
        signature = inspect.signature(find(parse_spec(name), base), eval_str=True)
        for argument in signature.parameters:
            for value in (2**31 - 1, -(2**31), 10**4000, 1e9, -1e308, 1e-300, float("nan")):
                try:
                    load(Spec(None, name, (), {argument: value}), base)
                except UserError as error:
                    said.append(str(error))
    assert len(said) > 5
    assert [text for text in said if "\n" in text or len(text) > 400] == []
