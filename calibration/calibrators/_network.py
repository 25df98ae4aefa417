"""What the network calibrators share: full-batch training by gradients summed over clients.

Each round sends the gradient of the loss summed over a client's examples; the server divides by
the count and takes one step of Adam (Kingma, Ba, 2015, arXiv 1412.6980). That is full-batch
training on the pooled data, message for message. The result is the visited point of least loss,
so it is never worse than the start on the data it was fitted to.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from fl2ora.calibration.calibrators._plausible import check_between
from fl2ora.calibration.calibrators._tensors import (
    as_labels,
    as_logits,
    check_classes,
    check_examples,
    check_number,
    check_whole,
    pack,
    scalar,
    unpack,
)
from fl2ora.calibration.calibrators.base import (
    CalibrationContext,
    Calibrator,
    FitState,
    Parameters,
    Sums,
)

DECAYS = (0.9, 0.999)
EPSILON = 1e-8


class NetworkCalibrator(Calibrator):
    """Base of the calibrators that are small networks; ``exact`` means pooled full-batch training.

    Parameters: ``weight1``, ``bias1``, ``weight2``, ... of a ReLU network. The last weight starts
    at 0 and its bias at ``output_bias``, which makes the start the identity.
    """

    exact: ClassVar[bool] = True
    preserves_argmax: ClassVar[bool] = True
    output_bias: ClassVar[float]

    def __init__(self, hidden: int, steps: int, learning_rate: float, seed: int) -> None:
        self.hidden = check_whole("hidden", hidden, 1, 1000)
        self.max_steps = check_whole("steps", steps, 1)
        self.learning_rate = check_number("learning_rate", learning_rate, positive=True)
        self.seed = check_whole("seed", seed, 0)

    @abstractmethod
    def sizes(self, num_classes: int) -> list[int]:
        """Return the widths of the network from its input to its output."""

    @abstractmethod
    def rescale(self, logits: Tensor, parameters: Parameters) -> Tensor:
        """Return the calibrated logits ``(N, K)``."""

    @abstractmethod
    def loss(self, log_probabilities: Tensor, labels: Tensor) -> Tensor:
        """Return the loss summed over ``log_probabilities (N, K)`` and ``labels (N,)``."""

    def start(self, num_classes: int) -> FitState:
        """Return the identity with seeded hidden weights."""
        check_classes(num_classes)
        generator = torch.Generator().manual_seed(self.seed)
        sizes = self.sizes(num_classes)
        parameters: Parameters = {}
        for layer, (fan_in, width) in enumerate(pairwise(sizes), start=1):
            drawn = torch.randn(width, fan_in, generator=generator, dtype=torch.float64)
            last = layer == len(sizes) - 1
            parameters[f"weight{layer}"] = drawn * (0 if last else (2 / fan_in) ** 0.5)
            bias = torch.zeros(width, dtype=torch.float64)
            parameters[f"bias{layer}"] = bias + self.output_bias if last else bias
        point = pack(parameters, parameters)
        solver = {"first": torch.zeros_like(point), "second": torch.zeros_like(point)}
        solver |= {"best": point, "best_loss": scalar(torch.inf), "rounds": scalar(0)}
        return FitState(parameters, solver, False)

    def statistics(
        self,
        logits: Tensor,
        labels: Tensor,
        state: FitState,
        *,
        context: CalibrationContext | None = None,
    ) -> Sums:
        """Return ``count``, ``loss`` and ``gradient (P,)``, names of the parameters in order."""
        with torch.inference_mode(False), torch.enable_grad():
            z = as_logits(logits).clone()
            y = as_labels(labels, z).clone()
            names = sorted(state.parameters)
            leaves = {n: state.parameters[n].detach().clone().requires_grad_() for n in names}
            loss = self.loss(self.rescale(z, leaves).log_softmax(dim=1), y)
            gradients = torch.autograd.grad(loss, [leaves[n] for n in names])
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        return {"count": scalar(len(z)), "loss": loss.detach(), "gradient": flat}

    def check_sums(self, sums: Sums, state: FitState, num_classes: int) -> None:
        """Refuse a negative loss: no count bounds what else is summed."""
        check_between("loss", sums["loss"], 0, math.inf)

    def update(self, state: FitState, sums: Sums) -> FitState:
        """Take one step of Adam on the mean loss."""
        count = check_examples(self, sums)
        like = {name: state.parameters[name] for name in sorted(state.parameters)}
        point, solver = pack(like, like), dict(state.solver)
        if float(sums["loss"]) / count < float(solver["best_loss"]):
            solver |= {"best": point, "best_loss": sums["loss"] / count}
        solver["rounds"] = solver["rounds"] + 1
        rounds = float(solver["rounds"])
        if rounds >= self.max_steps:
            return FitState(unpack(solver["best"], like), solver, True)
        gradient = sums["gradient"] / count
        for name, decay, power in zip(("first", "second"), DECAYS, (1, 2), strict=True):
            solver[name] = decay * solver[name] + (1 - decay) * gradient**power
        mean = solver["first"] / (1 - DECAYS[0] ** rounds)
        spread = (solver["second"] / (1 - DECAYS[1] ** rounds)).sqrt()
        point = point - self.learning_rate * mean / (spread + EPSILON)
        return FitState(unpack(point, like), solver, False)

    def restart(self, state: FitState) -> FitState:
        """Return ``state`` without the best point so far, whose loss is that of other clients."""
        point = pack(
            state.parameters, {name: state.parameters[name] for name in sorted(state.parameters)}
        )
        solver = {**state.solver, "best": point, "best_loss": scalar(torch.inf)}
        return FitState(state.parameters, solver, state.done)

    def apply(
        self,
        logits: Tensor,
        parameters: Parameters,
        *,
        context: CalibrationContext | None = None,
    ) -> Tensor:
        """Return the log-softmax of the calibrated logits."""
        return self.rescale(as_logits(logits), parameters).log_softmax(dim=1)


def forward(inputs: Tensor, parameters: Parameters) -> Tensor:
    """Return the output of the ReLU network for ``inputs (N, I)``."""
    layers = sum(name.startswith("weight") for name in parameters)
    for layer in range(1, layers + 1):
        inputs = inputs @ parameters[f"weight{layer}"].T + parameters[f"bias{layer}"]
        inputs = inputs.relu() if layer < layers else inputs
    return inputs
