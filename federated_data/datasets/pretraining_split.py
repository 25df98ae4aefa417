"""Which Fashion-MNIST training images the embedded CLIP was pre-trained on."""

from __future__ import annotations

FASHION_MNIST_PRETRAINING = range(0, 2000)
"""Indices into the training file whose images and captions were shown in pre-training.

Experiments must never train, tune, calibrate or test on these images: the embedded CLIP knows
their labels, so any accuracy or confidence measured on them is too good. ``FashionMNIST`` leaves
them out of every split.
"""
