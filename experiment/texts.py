"""What a text of the run config may be: a spec, a sum of specs, a model, a device, a folder."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, TypeAlias

from pydantic import AfterValidator

from fl2ora.experiment.errors import UserError, nearest, shown
from fl2ora.experiment.paths import check_paths, user_path
from fl2ora.experiment.spec import parse_list, parse_spec, parse_sum

DEVICES = ("auto", "cpu", "cuda", "mps")


def _checked(check: Callable[[str], object]) -> AfterValidator:
    def pass_on(text: str) -> str:
        check(text)
        return text

    return AfterValidator(pass_on)


def _spec(text: str) -> None:
    check_paths(parse_spec(text))


def _sum(text: str) -> None:
    for _, spec in parse_sum(text):
        check_paths(spec)


def _list(text: str) -> None:
    for spec in parse_list(text):
        check_paths(spec)


def _model(text: str) -> None:
    if not text.strip():
        raise UserError(f"expected embedded, a hub name or a folder, found {text!r}")
    user_path(text)


def check_device(text: str) -> None:
    """Refuse what is no name of a device."""
    if text not in DEVICES and not re.fullmatch(r"cuda:[0-9]{1,3}", text):
        expected = f"{', '.join(DEVICES)} or cuda:N"
        raise UserError(f"expected {expected}, found {shown(text)}{nearest(text, DEVICES)}")


def _folder_name(text: str) -> None:
    """Refuse what would lead out of the folder of all runs."""
    if text in (".", "..") or set(text) & {"/", "\\", "\0"}:
        raise UserError(f"expected the name of one folder, without slashes, found {shown(text)}")
    user_path(f"./{text}")


def _absolute_path(text: str) -> None:
    """Refuse a path that would be another one in each process of a run."""
    if text and not user_path(text).is_absolute():
        raise UserError(f"expected an absolute path, found {shown(text)}")


def _clients(text: str) -> None:
    """Refuse empty names between the signs."""
    if text.strip() and not all(name.strip() for name in text.split("+")):
        raise UserError(f"expected names of clients joined by +, found {shown(text)}")


SpecText: TypeAlias = Annotated[str, _checked(_spec)]
SumText: TypeAlias = Annotated[str, _checked(_sum)]
ListText: TypeAlias = Annotated[str, _checked(_list)]
ModelText: TypeAlias = Annotated[str, _checked(_model)]
DeviceText: TypeAlias = Annotated[str, _checked(check_device)]
FolderText: TypeAlias = Annotated[str, _checked(_absolute_path)]
ClientsText: TypeAlias = Annotated[str, _checked(_clients)]
NameText: TypeAlias = Annotated[str, _checked(_folder_name)]
