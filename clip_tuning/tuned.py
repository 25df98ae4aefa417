"""What of a module is tuned, under which names it travels, and what each client keeps of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self

import torch
from torch import Tensor, nn

from fl2ora.clip_tuning.adapter import Adapter, as_adapter, check_finite, check_like, moved_at_once


class TunedModule(nn.Module):
    """A frozen module with some parameters in training.

    Attributes:
        tuned: the parameters in training by the names under which they travel.
        carried: further tensors that travel with them and are never trained by gradients.
        personal: parameters in training beside ``tuned`` that each client keeps to itself.
        personalised: ``personal`` takes part in what is computed; see ``as_client``.
        images_frozen: ``encode_images`` does not depend on what is tuned.
        classes_frozen: ``encode_classes`` does not depend on what is tuned.
        untouched: no adapter was restored and no client's own model taken on yet.
        initial: the adapter of before, where ``tuned_classifier`` made it.
        initial_digest: of that adapter; empty elsewhere.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tuned: Mapping[str, nn.Parameter] = {}
        self.carried: Mapping[str, nn.Parameter] = {}
        self.personal: Mapping[str, nn.Parameter] = {}
        self._personal_start: Adapter = {}
        self.personalised = False
        self.images_frozen = self.classes_frozen = True
        self.untouched = True
        self.initial: Adapter = {}
        self.initial_digest = ""

    def tune(
        self,
        parameters: Mapping[str, nn.Parameter],
        *,
        personal: Mapping[str, nn.Parameter] | None = None,
        images_frozen: bool = False,
        classes_frozen: bool = False,
    ) -> Self:
        """Make ``parameters`` the ones in training, everything else frozen.

        Args:
            parameters: by the names under which they travel.
            personal: further ones in training, which no client sends; as they are now, every
                client starts with them.
            images_frozen: promise that ``encode_images`` does not depend on them.
            classes_frozen: promise that ``encode_classes`` does not depend on them.
        """
        self.requires_grad_(False)
        self.tuned = {name: parameters[name] for name in sorted(parameters)}
        self.personal = dict(personal or {})
        self._personal_start = {n: p.detach().clone() for n, p in self.personal.items()}
        self.images_frozen, self.classes_frozen = images_frozen, classes_frozen
        for parameter in self.trained:
            parameter.requires_grad_(True)
        return self

    @property
    def trained(self) -> list[nn.Parameter]:
        """What SGD moves: ``tuned`` and ``personal``."""
        return [*self.tuned.values(), *self.personal.values()]

    def tune_own(
        self,
        *,
        personal: Sequence[str] = (),
        images_frozen: bool = False,
        classes_frozen: bool = False,
    ) -> Self:
        """Train every parameter that is this classifier's own and none of CLIP's; see ``tune``.

        Args:
            personal: names of those that each client keeps to itself.
            images_frozen: see ``tune``.
            classes_frozen: see ``tune``.
        """
        own = {n: p for n, p in self.named_parameters() if not n.startswith("clip.")}
        return self.tune(
            {name: parameter for name, parameter in own.items() if name not in personal},
            personal={name: own[name] for name in personal},
            images_frozen=images_frozen,
            classes_frozen=classes_frozen,
        )

    @contextmanager
    def as_client(self, personal: Mapping[str, Tensor]) -> Iterator[None]:
        """Be one client's own model inside the block; outside of it ``personal`` plays no part.

        Args:
            personal: what ``export_personal`` returned when the client last took part; empty for a
                client that never did.

        Raises:
            AdapterError: see ``restore``.
        """
        self.untouched = False
        _load(personal or self._personal_start, self.personal, "personal part")
        self.personalised = bool(self.personal)
        try:
            yield
        finally:
            self.personalised = False

    def export_personal(self) -> Adapter:
        """Return float32 CPU copies of what a client keeps to itself."""
        return as_adapter(self.personal)

    def export(self) -> Adapter:
        """Return float32 CPU copies of what is tuned and carried."""
        return as_adapter({**self.tuned, **self.carried})

    def restore(self, adapter: Mapping[str, Tensor]) -> None:
        """Load everything that is tuned or carried from ``adapter``.

        Raises:
            AdapterError: missing, unexpected or misshapen names, or values that are not finite;
                nothing is changed then.
        """
        self.untouched = False
        _load(adapter, {**self.tuned, **self.carried}, "adapter")


def _load(adapter: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter], what: str) -> None:
    check_like(adapter, parameters, what)
    check_finite(adapter, what)
    values = [adapter[name] for name in parameters]
    if any(parameter.device.type == "cuda" for parameter in parameters.values()):
        values = moved_at_once(values, next(iter(parameters.values())).device)
    with torch.no_grad():
        for parameter, value in zip(parameters.values(), values, strict=True):
            parameter.copy_(value)
