"""Pictures of any kind as squares of one size, with their opacity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.store.decode import decoding, eight_bits
from fl2ora.reporting.whole_files import plain_file


def read_picture(path: Path, side: int) -> Tensor:
    """Return a picture ``(4, side, side)`` uint8, the last channel its opacity.

    It is turned as its EXIF orientation says and squeezed into a square; of an animation this is
    the first picture.

    Raises:
        UserError: it is no picture that can be read, or has more pixels than Pillow's limit.
    """
    try:
        with decoding(), Image.open(plain_file(path)) as opened:
            opened.load()
            picture = ImageOps.exif_transpose(opened)
        if picture.mode == "F":
            raise UserError("one of floating-point numbers")
        if picture.mode.startswith("I"):  # Pillow itself would cut off all above 255
            picture = eight_bits(picture)
        square = picture.convert("RGBA").resize((side, side), Image.Resampling.BICUBIC)
    except Exception as error:  # decoders raise all kinds
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"{path}: expected a picture, found {said}") from None
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)
