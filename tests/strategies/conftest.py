"""``pytest tests/strategies/test_strategy_contract.py --strategy 'my_module:MyStrategy()'``."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--strategy", action="append", default=[], help="spec of a strategy to check; repeatable"
    )
    parser.addoption(
        "--steps-of-its-own",
        action="store_true",
        help="the strategy does not hand on a single client's adapter unchanged",
    )
