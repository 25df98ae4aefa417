"""Calibrated federated fine-tuning of CLIP, as a Flower app.

The rooms of the project (``strategies``, ``calibration``, ...) are this package's sub-packages:
``fl2ora.calibration``. In a checkout they lie beside this folder, at the root of the repository.
"""

from __future__ import annotations

from pathlib import Path

# Symbolic links beside this file lead to the rooms, but a Flower bundle leaves links out.
_ROOT = Path(__file__).resolve().parent.parent
if (_ROOT / "client_app").is_dir() and (_ROOT / "server_app").is_dir():
    __path__.append(str(_ROOT))
