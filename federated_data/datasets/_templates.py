"""Prompt templates as an argument of a dataset."""

from __future__ import annotations

from fl2ora.experiment.errors import UserError, shown


def as_templates(given: str | list[str]) -> tuple[str, ...]:
    """Return one template or several as a tuple; what is in them is checked with the data.

    Raises:
        UserError: they are neither a text nor a list.

    >>> as_templates("a photo of a {}.")
    ('a photo of a {}.',)
    """
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, list | tuple):
        raise UserError(
            f"templates: expected a text with {{}} or a list of such, found {shown(given)}"
        )
    return tuple(given)
