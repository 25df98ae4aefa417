"""How many small faults in the code do its tests notice?

Every mutant changes one place of one module: an operator, a constant, a condition, or a statement
that is left out. The module's test files run on it, in a copy of the repository and a fork of a
process that has the libraries loaded. docs/testing.md has the score and what survived.

    python -m benchmarks.mutation [--share 0.25] [module.py ...]
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import math
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TESTS = {
    "strategies/averaging/*.py": (
        "tests/strategies/test_fed*.py tests/strategies/test_scaffold.py "
        "tests/strategies/test_server_optimisers.py"
    ),
    "calibration/metrics/binned.py": "tests/calibration/test_binned_metrics.py",
    "client_app/stepper.py": "tests/client_app/test_training_arithmetic.py",
    "messages/train.py": "tests/messages/test_train_message.py",
    "server_app/rounds.py": "tests/server_app/test_rounds.py",
}
SECONDS = 120  # of the processor, for the tests of one mutant; then it counts as noticed
PAIRS = "Lt LtE,Gt GtE,Eq NotEq,Is IsNot,In NotIn,Add Sub,Mult Div,And Or,Pow Mult,BitOr BitAnd"
SWAPS = {getattr(ast, p.split()[0]): getattr(ast, p.split()[1]) for p in PAIRS.split(",")}
SWAPS |= {other: one for one, other in SWAPS.items() if other not in SWAPS}


def mutants(tree: ast.Module) -> Iterator[tuple[int, str, ast.Module]]:
    """Yield line, description and changed tree of every mutant of a module."""
    types = {id(node) for part in _annotations(tree) for node in ast.walk(part)}
    for index, node in enumerate(ast.walk(tree)):
        for change in range(0 if id(node) in types else 3):
            trial = copy.copy(node)  # a copy of the tree for every node would take minutes
            vars(trial).update({k: list(v) for k, v in vars(node).items() if isinstance(v, list)})
            if what := _changed(trial, change):
                other = copy.deepcopy(tree)
                _changed(list(ast.walk(other))[index], change)
                yield getattr(node, "lineno", 0), what, ast.fix_missing_locations(other)


def _annotations(tree: ast.Module) -> Iterator[ast.expr]:
    """Yield all annotations, which nobody evaluates."""
    for node in ast.walk(tree):
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(part, ast.expr):
                yield part


def _changed(node: ast.AST, change: int) -> str:
    """Change ``node`` in place in one of three ways; return what was done, or nothing."""
    if change == 0:
        if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
            node.ops[0] = SWAPS[type(node.ops[0])]()
        elif isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in SWAPS:
            node.op = SWAPS[type(node.op)]()
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
            node.value = not node.value if isinstance(node.value, bool) else node.value + 1
        else:
            return ""
        return f"operator or constant: {ast.unparse(node)}"
    if change == 1 and isinstance(node, ast.If | ast.IfExp | ast.While):
        node.test = ast.UnaryOp(ast.Not(), node.test)
        return f"negated: {ast.unparse(node.test)}"
    if change == 2 and isinstance(node, ast.FunctionDef | ast.If | ast.For | ast.With):
        for place, line in enumerate(node.body):  # the first that can be left out
            called = isinstance(line, ast.Expr) and isinstance(line.value, ast.Call)
            if called or isinstance(line, ast.AugAssign | ast.Raise):
                node.body[place] = ast.Pass()
                return f"left out: {ast.unparse(line)[:60]}"
    return ""


def noticed(copy_of: Path, tests: list[str]) -> bool:
    """Run the tests in a fork; return whether one failed, or none came to an end."""
    pid = os.fork()
    if pid == 0:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.alarm(20 * SECONDS)  # for one that only waits
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        os.chdir(copy_of)
        sys.path.insert(0, str(copy_of))
        arguments = ["-x", "-q", "-n0", "-p", "no:cacheprovider"]
        os._exit(int(pytest.main([*arguments, "-W", "ignore::pytest.PytestWarning", *tests])))
    return os.waitpid(pid, 0)[1] != 0


def main() -> None:
    """Mutate a sample of every chosen module; print the survivors and the score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", help="default: those of TESTS")
    parser.add_argument("--share", type=float, default=0.25, help="of all mutants (0.25)")
    options = parser.parse_args()
    sys.dont_write_bytecode = True
    for name in ("torch", "transformers", "peft", "pandas", "flwr.serverapp"):
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        ignored = shutil.ignore_patterns(".*", "__pycache__")
        work = shutil.copytree(ROOT, Path(folder) / "copy", symlinks=True, ignore=ignored)
        for pattern, named in TESTS.items():
            tests = [str(p.relative_to(work)) for t in named.split() for p in sorted(work.glob(t))]
            for path in sorted(work.glob(pattern)):
                if str(path.relative_to(work)) in (
                    options.modules or [str(path.relative_to(work))]
                ):
                    _try(path, work, tests, options.share)


def _try(path: Path, work: Path, tests: list[str], share: float) -> None:
    text, name = path.read_text(encoding="utf-8"), path.relative_to(work)
    found = list(mutants(ast.parse(text)))
    if found and noticed(work, tests):
        raise SystemExit(f"{name}: a test fails without any fault")
    sample = random.Random(0).sample(found, math.ceil(share * len(found)))
    survived = []
    for line, what, tree in sample:
        path.write_text(ast.unparse(tree), encoding="utf-8")
        if not noticed(work, tests):
            survived.append(f"  {name}:{line}: {what}")
    path.write_text(text, encoding="utf-8")
    seen = f"{len(sample) - len(survived)} of {len(sample)} noticed"
    print(f"{name}: {seen}", *survived, sep="\n", flush=True)


if __name__ == "__main__":
    main()
