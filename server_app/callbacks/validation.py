"""Measuring the clients' calibration images in every measured round."""

from __future__ import annotations

from fl2ora.server_app.callbacks.base import Callback


class Validation(Callback):
    """Has the images measured that the clients keep to fit calibrators, as ``clients-validation``.

    What is chosen by them, such as a learning rate, can still be measured on test images.
    """

    parts = frozenset({"validation"})
