r"""The study of docs/study.md, from archives of emoji to its tables: one command, which goes on.

    mkdir -p study/archives
    npm pack --pack-destination study/archives openmoji emoji-datasource-google \
        emoji-datasource-twitter @lobehub/fluent-emoji-3d @iconify-json/noto-v1 \
        @iconify-json/emojione-v1
    pip install -c constraints.txt -e '.[study]'
    python -m benchmarks.study

What is there already is not made again: the pictures, the model, and every run that is done. The
tables are printed; the results of all runs are written to docs/study/results.parquet, and plots to
docs/figures.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.study.analysis import SWEEPS, results, tables
from benchmarks.study.figures import draw_methods, draw_rates

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path("study")
RESULTS = ROOT / "docs" / "study" / "results.parquet"


def _do(*words: str | Path) -> None:
    if code := subprocess.run([sys.executable, "-m", *map(str, words)], check=False).returncode:
        raise SystemExit(code)  # what went wrong has been said


def main() -> None:
    """Make what is missing, run what has not run, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tables", action="store_true", help="only read what has run")
    options = parser.parse_args()
    if not options.tables:
        if not (FOLDER / "emoji" / "captions" / "metadata.csv").exists():
            archives = sorted((FOLDER / "archives").glob("*.tgz"))
            _do("benchmarks.study.pictures", *archives, "--out", FOLDER / "emoji")
        configs = ROOT / "configs" / "study"
        if not (FOLDER / "clip" / "pretraining.json").exists():
            _do("fl2ora", "pretrain", configs / "pretrain.toml", "--output", FOLDER / "clip")
        for name in SWEEPS:
            _do("fl2ora", "sweep", configs / f"{name}.toml", "--output", FOLDER / name)
    table = results(FOLDER)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(RESULTS, index=False)
    figures = ROOT / "docs" / "figures"
    draw_methods(table, "methods", figures / "study-methods")
    draw_methods(table, "methods-drawings", figures / "study-drawings")
    draw_rates(table, figures / "study-rates")
    print(tables(table))


if __name__ == "__main__":
    main()
