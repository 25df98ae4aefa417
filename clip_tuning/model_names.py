"""What a model's name stands for: the embedded one, a folder, or one of the hub's."""

from __future__ import annotations

import os
import re
import ssl
import urllib.request
from difflib import get_close_matches
from http.client import HTTPException
from pathlib import Path

from transformers.utils import cached_file
from transformers.utils.hub import is_offline_mode

from fl2ora.experiment.errors import UserError, nearest, shown
from fl2ora.experiment.paths import user_path

_HUB_SECONDS = 5.0
_HUB_NAME = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}", re.ASCII)
_EXAMPLES = (
    "embedded",
    "openai/clip-vit-base-patch16",
    "openai/clip-vit-base-patch32",
    "openai/clip-vit-large-patch14",
    "openai/clip-vit-large-patch14-336",
    "google/siglip-base-patch16-224",
    "google/siglip-base-patch16-256",
    "google/siglip-so400m-patch14-384",
)
"""What a name that stands for nothing is compared with."""


def check_model(name: str) -> str:
    """Return the folder or the hub name that a model's name stands for, without reading it.

    Raises:
        UserError: it is the path of a folder that does not exist, or the hub can have no such name.
            (It has names of one word, but of no CLIP and no SigLIP.)
    """
    folder = user_path(name)
    if folder.is_dir():
        return str(folder)
    if folder.is_absolute() or name.startswith((".", "~")):
        raise UserError(f"folder {name!r} does not exist")
    if name != "embedded" and not _HUB_NAME.fullmatch(name):
        raise UserError(
            f"expected 'embedded', a folder, or a hub name such as {_EXAMPLES[1]!r}, "
            f"found {shown(name)}{nearest(name, _EXAMPLES)}"
        )
    return name


def source_of(name: str) -> str:
    """Return what transformers reads a model from; a hub that does not answer is told at once."""
    try:
        source = check_model(name)
    except UserError as error:
        raise UserError(f"model: {error}") from None
    if source == name and not Path(source).is_dir():
        _ask_hub(name)
    return source


def _ask_hub(name: str) -> None:
    """Say at once that the hub does not answer, which transformers tries for half a minute.

    Raises:
        UserError: it does not, and the model is not among those downloaded before.
    """
    kept = cached_file(
        name,
        "config.json",
        local_files_only=True,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if kept is not None or is_offline_mode():
        return
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    try:
        question = urllib.request.Request(f"{hub}/{name}/resolve/main/config.json", method="HEAD")
        urllib.request.urlopen(question, timeout=_HUB_SECONDS).close()
    except (OSError, ValueError, HTTPException) as error:  # URLError is an OSError
        reason = getattr(error, "reason", error)
        # What it answers, and how it may be trusted, is for transformers to judge.
        if isinstance(reason, OSError) and not isinstance(reason, ssl.SSLError):
            raise UserError(
                f"model {name!r}: expected a model downloaded before, or a hub that answers: {hub} "
                f"does not ({reason}){well_known(name)}"
            ) from error


def well_known(name: str) -> str:
    """Return a hint at the well-known hub name that a name resembles, or nothing."""
    match = get_close_matches(name[:200], _EXAMPLES, n=1, cutoff=0.8)
    return f"; did you mean {match[0]!r}?" if match and match[0] != name else ""
