"""What the server measures: the central test set, and the clients' held-out images."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import torch

from calibration.stats import CalibrationStats, StatsSpec
from calibration.summary import summarise
from clip_tuning.classifier import ClipClassifier
from clip_tuning.prediction import predict
from experiment.config import RunConfig
from federated_data.clients import divide, share_out
from federated_data.protocols.base import Federation
from server_app.handshake import Peer

SERVER_TEST = "server-test"
_HIGHER_IS_BETTER = frozenset({"accuracy"})
_NEITHER = frozenset({"confidence", "num_examples"})


class HeldOut:
    """Held-out data that lies with the server, measured in one pass.

    Args:
        config: of the run.
        federation: its data.
        peers: clients whose held-out images are measured here too; each must hold a share of
            ``federation``. All share the global adapter, so slicing one pass over the union gives
            exactly the figures they would compute themselves.
    """

    def __init__(self, config: RunConfig, federation: Federation, peers: Sequence[Peer]) -> None:
        """Collect the images once."""
        self.spec = StatsSpec(num_bins=config.num_bins)
        self._batch = config.eval_batch_size
        parts = [federation.test]
        if peers:
            count = peers[0].hello.num_partitions
            shares = share_out(federation, config.partition, count, config.seed)
            parts += [
                divide(
                    shares[peer.hello.partition],
                    config.local_test_fraction,
                    config.seed,
                    peer.client,
                ).test
                for peer in peers
            ]
        self._names = [SERVER_TEST, *(peer.client for peer in peers)]
        self._sizes = [len(part) for part in parts]
        self._images = torch.cat([part.images for part in parts])
        self._labels = torch.cat([part.labels for part in parts])

    def measure(
        self, classifier: ClipClassifier
    ) -> tuple[CalibrationStats, dict[str, CalibrationStats]]:
        """Return the sums of the central test set, and of each client by its key."""
        logits = predict(classifier, self._images, self._batch)
        rows = zip(
            self._names, logits.split(self._sizes), self._labels.split(self._sizes), strict=True
        )
        stats = [(name, CalibrationStats.from_logits(z, y, self.spec)) for name, z, y in rows]
        return stats[0][1], dict(stats[1:])


def client_figures(clients: Mapping[str, CalibrationStats]) -> dict[str, dict[str, float]]:
    """Return the figures over clients, each under a name that says which it is.

    ``clients-test`` is of the pooled data (sums added); ``clients-test-mean``, ``-sd`` and
    ``-worst`` are the plain mean, the population standard deviation and the worst of the clients'
    own figures. Clients without held-out images are left out.
    """
    measured = [stats for stats in clients.values() if stats.num_examples]
    if not measured:
        return {}
    own = [summarise(stats) for stats in measured]
    columns = {name: [row[name] for row in own] for name in own[0]}
    return {
        "clients-test": summarise(sum(measured[1:], start=measured[0])),
        "clients-test-mean": {name: statistics.fmean(v) for name, v in columns.items()},
        "clients-test-sd": {name: statistics.pstdev(v) for name, v in columns.items()},
        "clients-test-worst": {
            name: min(v) if name in _HIGHER_IS_BETTER else max(v)
            for name, v in columns.items()
            if name not in _NEITHER
        },
    }
