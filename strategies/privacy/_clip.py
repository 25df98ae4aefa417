"""The clip of dp_fedavg: a number, or one that follows a quantile of the changes' norms.

Andrew et al. 2019, arXiv 1905.03871.
"""

from __future__ import annotations

import math

import torch

from fl2ora.strategies.privacy._noise import gaussian_noise

_SHARE_OF_ASKED = 1 / 20  # the paper's noise on the count
_LEAST_COUNT_NOISE = 2.5  # of few clients, over z: the changes then bear 2 % more noise
_LARGEST = 1e30  # a clip beyond which nothing is cut; its square still is a float32


class Clip:
    """C, and after each round ``C exp(-rate (b - quantile))`` with b the noisy share of short ones.

    b is ``1/2 + (sum_k (b_k - 1/2) + N(0, s^2)) / m``, b_k = 1 where a change is at most C long: a
    client moves the sum by 1/2. Noise of ``z' = (z^-2 - (2 s)^-2)^(-1/2)`` on the changes and s on
    the count cost together what noise of z on the changes would alone (theorem 1).

    Args:
        value: C, or the first one.
        noise_multiplier: z, of both releases together.
        quantile: the share of changes that should be shorter than C; 0: C stays.
        rate: see above.
        count_noise: s; 0: a twentieth of the clients asked, and at least 2.5 z.

    Attributes:
        value: C of the coming round, a float32.
    """

    def __init__(
        self,
        value: float,
        noise_multiplier: float,
        quantile: float,
        rate: float,
        count_noise: float,
    ) -> None:
        if not 0 <= quantile < 1:
            raise ValueError(
                f"clip_quantile: expected at least 0 and less than 1, found {quantile}"
            )
        if not 0 < rate <= 10:
            raise ValueError(f"clip_rate: expected more than 0 and at most 10, found {rate}")
        if not 0 <= count_noise < math.inf:
            raise ValueError(
                f"count_noise: expected a finite number of at least 0, found {count_noise}"
            )
        if count_noise and not (quantile and noise_multiplier):
            raise ValueError(
                f"count_noise: expected 0 where clip_quantile or noise_multiplier is 0, since "
                f"nothing bears it, found {count_noise}"
            )
        if count_noise and 2 * count_noise <= noise_multiplier:
            raise ValueError(
                f"count_noise: expected more than half of noise_multiplier = {noise_multiplier}, "
                f"found {count_noise}: the count alone would cost more than both may"
            )
        self.value = float(torch.tensor(value)) if quantile else value
        self.quantile = quantile
        self._z = noise_multiplier
        self._rate = rate
        self._count_noise = count_noise

    def count_noise(self, asked: int) -> float:
        """Return s of a round."""
        default = max(_SHARE_OF_ASKED * asked, _LEAST_COUNT_NOISE * self._z)
        return (self._count_noise or default) if self._z else 0.0

    def noise_multiplier(self, asked: int) -> float:
        """Return z' of a round: standard deviation of the noise on the sum of changes, over C."""
        if not (self.quantile and self._z):
            return self._z
        return self._z / math.sqrt(1 - (self._z / (2 * self.count_noise(asked))) ** 2)

    def follow(self, short: int, count: int, asked: int, seed: int | None) -> None:
        """Move C, if it is to move.

        Args:
            short: changes at most C long.
            count: all changes, m.
            asked: clients asked.
            seed: of the noise; see ``gaussian_noise``.
        """
        if not self.quantile:
            return
        like = {"count": torch.zeros(1)}
        noise = float(gaussian_noise(like, self.count_noise(asked), seed)["count"])
        share = 0.5 + (short - count / 2 + noise) / count
        moved = self.value * math.exp(-self._rate * (share - self.quantile))
        self.value = float(torch.tensor(min(max(moved, 1 / _LARGEST), _LARGEST)))
