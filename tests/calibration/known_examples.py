"""Examples with known answers, and ways to make predictions with a wanted confidence."""

import numpy as np

# Ex-A: ten confidences and whether each prediction was right; all golden values are for M = 5.
CONFIDENCE_A = np.array([0.10, 0.20, 0.35, 0.40, 0.55, 0.60, 0.75, 0.90, 0.95, 1.0])
CORRECT_A = np.array([0, 0, 1, 0, 1, 0, 1, 1, 0, 1])

# Ex-B: four rows of three classes.
PROBABILITIES_B = np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.3, 0.6]])
LABELS_B = np.array([0, 1, 1, 2])


def rows_with(confidence, correct, num_classes=16):
    """Return probabilities (N, K) and labels whose top-1 confidence and correctness are given.

    Class 0 is always predicted; the rest of the mass is spread evenly, so confidence > 1 / K.
    """
    confidence = np.asarray(confidence, np.float64)
    rest = (1 - confidence) / (num_classes - 1)
    probabilities = np.tile(rest[:, None], (1, num_classes))
    probabilities[:, 0] = confidence
    return probabilities, np.where(np.asarray(correct) == 1, 0, 1)


def random_predictions(seed, n, k, sharpness=3.0):
    """Return probabilities (N, K) and labels that are right more often when confident."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)) * sharpness
    labels = np.where(rng.random(n) < 0.6, logits.argmax(1), rng.integers(0, k, n))
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True), labels


def bins_by_loop(confidence, correct, num_bins):
    """Return (n, C, A) per right-closed bin, by comparing with every edge in turn."""
    table = np.zeros((3, num_bins))
    for c, a in zip(confidence, correct, strict=True):
        b = next(b for b in range(num_bins) if c <= (b + 1) / num_bins)
        table[:, b] += (1, c, a)
    return table
