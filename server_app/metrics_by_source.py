"""What is reported of sums: figures with their uncertainty, and the spread over clients."""

from __future__ import annotations

from collections.abc import Mapping

from fl2ora.calibration.significance import spiegelhalter_test
from fl2ora.calibration.stats import CalibrationStats
from fl2ora.calibration.summary import summarise, summarise_clients
from fl2ora.calibration.uncertainty import intervals_over_examples

SERVER_TEST = "server-test"
CLIENTS_TEST = "clients-test"
PERSONAL_TEST = "clients-test-personal"
_HIGHER_IS_BETTER = frozenset({"accuracy"})
_NEITHER = frozenset({"confidence"})


def pooled_figures(stats: CalibrationStats, resamples: int) -> dict[str, float]:
    """Return the figures of pooled data, their intervals, and a test of calibration.

    Args:
        stats: the pooled sums.
        resamples: bootstrap draws over examples; 0 leaves the intervals out.

    Returns:
        The names of ``summarise``; for each but ``num_examples`` its 95 % interval as
        ``<name>_low`` and ``<name>_high``; ``spiegelhalter_z`` and its two-sided ``_p``.
    """
    figures = summarise(stats)
    if resamples and stats.num_examples:
        for name, interval in intervals_over_examples(stats, resamples=resamples).items():
            figures[f"{name}_low"], figures[f"{name}_high"] = interval.low, interval.high
    test = spiegelhalter_test(stats)
    figures["spiegelhalter_z"], figures["spiegelhalter_p"] = test.statistic, test.p_value
    return figures


def all_figures(
    central: CalibrationStats,
    clients: Mapping[str, CalibrationStats],
    resamples: int,
    suffix: str = "",
) -> dict[str, dict[str, float]]:
    """Return every source's figures, each under a name that says which it is.

    ``server-test`` is the central test set, the others those of ``client_figures``.

    Args:
        central: sums of the central test set.
        clients: each client's sums by its key; may be empty.
        resamples: see ``pooled_figures``.
        suffix: ends every source's name.
    """
    found = {SERVER_TEST: pooled_figures(central, resamples)}
    found |= client_figures(clients, resamples, CLIENTS_TEST)
    return {name + suffix: values for name, values in found.items()}


def client_figures(
    clients: Mapping[str, CalibrationStats], resamples: int, source: str
) -> dict[str, dict[str, float]]:
    """Return the figures of the clients' pooled data, and how they spread over the clients.

    ``source`` itself is the pooled data (sums added). ``<source>-mean``, ``-sd`` and ``-worst`` are
    the plain mean, the population standard deviation and the worst of the clients' own figures;
    clients without held-out images are left out.

    Args:
        clients: each client's sums by its key; may be empty.
        resamples: see ``pooled_figures``.
        source: ``clients-test`` where all clients have the global model, ``clients-test-personal``
            where each has its own.
    """
    measured = [stats for stats in clients.values() if stats.num_examples]
    if not measured:
        return {}
    pooled = sum(measured[1:], start=measured[0])
    found = {source: pooled_figures(pooled, resamples)}
    spread = summarise_clients(measured)
    names = [name for name in summarise(pooled) if name != "num_examples"]
    for kind, ending in (("mean", "-mean"), ("std", "-sd")):
        found[source + ending] = {n: spread[f"client_{kind}_{n}"] for n in names}
    found[f"{source}-worst"] = {
        name: spread[f"client_{'min' if name in _HIGHER_IS_BETTER else 'max'}_{name}"]
        for name in names
        if name not in _NEITHER
    }
    return found
