"""The notebook runs from top to bottom, here with less to train."""

from __future__ import annotations

import ast
import json
from pathlib import Path

from matplotlib.figure import Figure

from documented import ROOT
from runs import SMALL

LESS = {
    '"num-rounds": 5': f'"num-rounds": 1, "dataset": {SMALL["dataset"]!r}',
    "clients=10": "clients=2",
    "run.calibrator, 0.8)": "run.calibrator, 0.3)",
}


def test_every_cell_runs(scratch: Path) -> None:
    notebook = json.loads((ROOT / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    assert not any(cell.get("outputs") for cell in notebook["cells"])
    for text in LESS:
        assert sum(text in cell for cell in cells) == 1, text
    names: dict[str, object] = {}
    shown: list[object] = []
    for cell in cells:
        for text, less in LESS.items():
            cell = cell.replace(text, less)
        code = "\n".join(line for line in cell.splitlines() if not line.startswith("%"))
        tree = ast.parse(code)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "notebook", "exec"), names)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), "notebook", "eval"), names))
    assert len(shown) == 6
    assert sum(isinstance(value, Figure) for value in shown) == 2
