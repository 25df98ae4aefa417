"""Image files as labelled images of one size."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.files import FileList
from fl2ora.federated_data.fit import Fit
from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.store.decode import BadImageError, decode, decoding

OnBadImage = Literal["stop", "skip"]


def stored_images(
    files: FileList, fit: Fit, on_bad_image: OnBadImage, name: str
) -> tuple[LabelledImages, tuple[str, ...]]:
    """Return the images of a split, and sentences on them for the run's record.

    Args:
        files: what to decode.
        fit: to which size.
        on_bad_image: what to do about a file that cannot be decoded.
        name: of the split, for messages.

    Raises:
        UserError: a file that cannot be decoded and ``on_bad_image`` is ``stop``.
    """
    kept, pixels, remarks = [], [], []
    with decoding():
        for row, path in enumerate(files.paths):
            try:
                pixels.append(torch.from_numpy(decode(path.read_bytes(), fit).pixels))
                kept.append(row)
            except (BadImageError, OSError) as error:
                if on_bad_image == "stop":
                    raise UserError(f"{path}: {error}") from None
                remarks.append(f"{path}: {error}")
    files = files.select(np.array(kept, dtype=np.int64))
    images = torch.stack(pixels) if pixels else torch.empty((0, 3, fit.resize, fit.resize)).byte()
    labels, domains = torch.from_numpy(files.labels), torch.from_numpy(files.domains)
    return LabelledImages(images, labels, domains, files.clients), tuple(remarks)
