"""Datasets whose images are encoded, in files or elsewhere."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch

from fl2ora.federated_data.datasets.base import Dataset, SplitName
from fl2ora.federated_data.files import FileList, Numbers
from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.store.sources import FileSource, Source
from fl2ora.federated_data.store.stored import OnBadImage, stored_images


class StoredDataset(Dataset):
    """Images of any size, which are decoded once and kept in a store of the machine.

    Training images are kept a second time, larger, where the run cuts random crops from them
    (``fit.larger``).

    Attributes:
        on_bad_image: what to do about an image that cannot be decoded: ``stop``, or ``skip``, which
            leaves it out and says so in ``notes``.
    """

    on_bad_image: OnBadImage = "stop"

    def stored(
        self,
        name: SplitName,
        source: Source,
        labels: Numbers,
        domains: Numbers,
        clients: Sequence[str] | None = None,
    ) -> LabelledImages:
        """Return one split, images ``(N, 3, R, R)`` uint8 with R ``fit.resize``.

        Args:
            name: of the split.
            source: of M encoded images.
            labels: ``(M,)`` int64.
            domains: ``(M,)`` int64.
            clients: whose each is; None if nobody's.

        Raises:
            UserError: an image cannot be decoded and ``on_bad_image`` is ``stop``, or none can be.
        """
        fit = self.fit if name == "train" else self.fit.for_evaluation()
        found = stored_images(source, fit, self.on_bad_image, name)
        self.remark(*found.remarks)
        return LabelledImages(
            found.images,
            torch.from_numpy(labels[found.kept]),
            torch.from_numpy(domains[found.kept]),
            None if clients is None else [clients[row] for row in found.kept],
        )

    def remark(self, *sentences: str) -> None:
        """Add sentences to ``notes``, each once."""
        self.notes = (*self.notes, *(said for said in sentences if said not in self.notes))


class FilesDataset(StoredDataset):
    """Images in files of their own; a subclass says which files there are."""

    @abstractmethod
    def files(self, name: SplitName) -> FileList:
        """Return the files of one split; reads listings, opens no image.

        Raises:
            UserError: a listing is missing or names what there is not.
        """

    def split(self, name: SplitName) -> LabelledImages:
        """Return one split; see ``stored``.

        Raises:
            UserError: as ``files`` and ``stored``.
        """
        files = self.files(name)
        source = FileSource(files.paths)
        return self.stored(name, source, files.labels, files.domains, files.clients)
