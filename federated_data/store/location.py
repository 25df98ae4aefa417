"""Where decoded images are kept between runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fl2ora.experiment.errors import UserError
from fl2ora.experiment.paths import user_path

VARIABLE = "FL2ORA_CACHE_DIR"


def cache_folder() -> Path:
    """Return ``$FL2ORA_CACHE_DIR``, else the folder that this kind of system keeps caches in.

    Raises:
        UserError: the variable holds no path, or there is no home folder.
    """
    if chosen := os.environ.get(VARIABLE):
        try:
            return Path(os.path.abspath(user_path(chosen)))
        except UserError as error:
            raise UserError(f"{VARIABLE}: {error}") from None
    try:
        home = Path.home()
    except RuntimeError:
        raise UserError(f"{VARIABLE}: expected a folder, since there is no home folder") from None
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "fl2ora"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "fl2ora"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "fl2ora"
