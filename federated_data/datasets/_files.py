"""A dataset whose images are files."""

from __future__ import annotations

from abc import abstractmethod

import torch

from fl2ora.federated_data.datasets.base import Dataset, SplitName
from fl2ora.federated_data.files import FileList
from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.store.sources import FileSource
from fl2ora.federated_data.store.stored import OnBadImage, stored_images


class FilesDataset(Dataset):
    """Images of any size in files, which are decoded once and kept in a store of the machine.

    A subclass says which files there are. Training images are kept a second time, larger, where the
    run cuts random crops from them (``fit.larger``).

    Attributes:
        on_bad_image: what to do about a file that cannot be decoded: ``stop``, or ``skip``, which
            leaves it out and says so in ``notes``.
    """

    on_bad_image: OnBadImage = "stop"

    @abstractmethod
    def files(self, name: SplitName) -> FileList:
        """Return the files of one split; reads listings, opens no image.

        Raises:
            UserError: a listing is missing or names what there is not.
        """

    def split(self, name: SplitName) -> LabelledImages:
        """Return one split, images ``(N, 3, R, R)`` uint8 with R ``fit.resize``.

        Raises:
            UserError: a file that cannot be decoded and ``on_bad_image`` is ``stop``; or what
                ``files`` raises.
        """
        fit = self.fit if name == "train" else self.fit.for_evaluation()
        files = self.files(name)
        found = stored_images(FileSource(files.paths), fit, self.on_bad_image, name)
        self.notes = (*self.notes, *(said for said in found.remarks if said not in self.notes))
        files = files.select(found.kept)
        labels, domains = torch.from_numpy(files.labels), torch.from_numpy(files.domains)
        return LabelledImages(found.images, labels, domains, files.clients)
