"""What benchmarks/soak.py says of samples whose growth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.soak import growth, plot

MIB = 2**20


def samples(role: str, process: int, until: int, slope: float) -> list[dict[str, Any]]:
    """Two samples a round; every tenth is a jump of a gigabyte."""
    return [
        {
            "round": number // 2,
            "seconds": 10.0 * number,
            "process": process,
            "role": role,
            "pss": int(MIB * (100 + slope * (number // 2) + (1024 if number % 10 == 9 else 0))),
            "rss": 0,
        }
        for number in range(until)
    ]


def test_growth_is_that_of_most_samples_and_of_processes_that_stayed(tmp_path: Path) -> None:
    taken = samples("grows", 1, 100, 2.0) + samples("flat", 2, 100, 0.0)
    taken += samples("left", 3, 50, 5.0)
    grows, flat = sorted(growth(taken), key=lambda row: -row["kib_per_round"])
    assert (grows["role"], grows["kib_per_round"]) == ("grows", 2048.0)
    assert (flat["role"], flat["kib_per_round"]) == ("flat", 0.0)
    assert grows["interval_95"][0] <= 2048.0 <= grows["interval_95"][1]
    assert (grows["first_mib"], grows["quarter_mib"]) == (100.0, 124.0)
    plot(taken, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").stat().st_size > 1000
