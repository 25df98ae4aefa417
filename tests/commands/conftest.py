"""Import typer once with its own import-time warning let through.

typer 0.20 (the newest that flwr 1.41 admits) takes a name from click that click 8.5 deprecates.
"""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="'click", category=DeprecationWarning)
    import typer  # noqa: F401
