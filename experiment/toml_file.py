"""Reading a TOML file that a user names."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from fl2ora.experiment.errors import UserError, shown


def read_toml(path: Path) -> dict[str, Any]:
    """Return what a TOML file holds.

    Raises:
        UserError: it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except RecursionError:
        raise UserError(f"{path}: not a TOML file: too many brackets inside each other") from None
    except ValueError as error:  # no TOML, no UTF-8, a number of thousands of digits, NUL in a path
        raise UserError(f"{shown(str(path))[1:-1]}: not a TOML file: {error}") from None
