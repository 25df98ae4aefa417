"""The losses written out in numpy, sample by sample and pair by pair.

Nothing here uses the code under test; loops are kept where a formula has sums.
"""

import math

import numpy as np

# The worked example of the tests: logits, labels, K = B = 3.
LOGITS = [[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 1.5, 0.5]]
LABELS = [0, 1, 2]


def probabilities(z):
    e = np.exp(np.asarray(z, dtype=np.float64))
    return e / e.sum(1, keepdims=True)


def top(z, y):
    """Return confidence and correctness."""
    p = probabilities(z)
    return p.max(1), np.array(
        [float(np.argmax(row) == label) for row, label in zip(p, y, strict=True)]
    )


def label_probability(z, y):
    return np.array([row[label] for row, label in zip(probabilities(z), y, strict=True)])


def entropies(z):
    return np.array([sum(-q * math.log(q) for q in row) for row in probabilities(z)])


def cross_entropy(z, y):
    return np.mean([-math.log(q) for q in label_probability(z, y)])


def dca(z, y):
    c, a = top(z, y)
    return abs(c.mean() - a.mean())


def mdca(z, y):
    p = probabilities(z)
    shares = [np.mean([label == j for label in y]) for j in range(p.shape[1])]
    return np.mean([abs(p[:, j].mean() - share) for j, share in enumerate(shares)])


def mmce(z, y, bandwidth=0.4):
    c, a = top(z, y)
    n = len(c)
    total = 0.0
    for i in range(n):
        for j in range(n):
            kernel = math.exp(-abs(c[i] - c[j]) / bandwidth)
            total += (a[i] - c[i]) * (a[j] - c[j]) * kernel
    return math.sqrt(total / n**2)


def mmce_weighted(z, y, bandwidth=0.4):
    c, a = top(z, y)
    right = [q for q, hit in zip(c, a, strict=True) if hit]
    wrong = [q for q, hit in zip(c, a, strict=True) if not hit]
    if not right or not wrong:
        return 0.0

    def kernel(s, t):
        return math.exp(-abs(s - t) / bandwidth)

    rr = sum((1 - s) * (1 - t) * kernel(s, t) for s in right for t in right) / len(right) ** 2
    ww = sum(s * t * kernel(s, t) for s in wrong for t in wrong) / len(wrong) ** 2
    rw = sum((1 - s) * t * kernel(s, t) for s in right for t in wrong)
    return math.sqrt(max(0.0, rr + ww - 2 * rw / (len(right) * len(wrong))))


def focal(z, y, gamma=3.0):
    return np.mean([-((1 - q) ** gamma) * math.log(q) for q in label_probability(z, y)])


def flsd(z, y):
    return np.mean(
        [-((1 - q) ** (5 if q < 0.2 else 3)) * math.log(q) for q in label_probability(z, y)]
    )


def dual_focal(z, y, gamma=5.0):
    values = []
    for row, label in zip(probabilities(z), y, strict=True):
        q = row[label]
        runner_up = max((other for other in row if other < q), default=0.0)
        values.append(-((1 - q + runner_up) ** gamma) * math.log(q))
    return np.mean(values)


def label_smoothing(z, y, alpha=0.05):
    uniform = np.mean([-math.log(q) for q in probabilities(z).ravel()])
    return (1 - alpha) * cross_entropy(z, y) + alpha * uniform


def label_smoothing_others(z, y, alpha=0.1):
    p = probabilities(z)
    k = p.shape[1]
    total = 0.0
    for row, label in zip(p, y, strict=True):
        for j, q in enumerate(row):
            total -= (1 - alpha if j == label else alpha / (k - 1)) * math.log(q)
    return total / len(p)


def mbls(z, y, margin=10.0):
    return np.mean([max(0.0, max(row) - value - margin) for row in z for value in row])


def confidence_penalty(z, y):
    return -entropies(z).mean()


def brier(z, y):
    total = 0.0
    for row, label in zip(probabilities(z), y, strict=True):
        total += sum((q - (j == label)) ** 2 for j, q in enumerate(row))
    return total / len(y)


def soft_binned_ece(z, y, num_bins=15, temperature=0.01, norm=2):
    c, a = top(z, y)
    member = np.zeros((len(c), num_bins))
    for i, confidence in enumerate(c):
        scores = [
            -((confidence - (b + 0.5) / num_bins) ** 2) / temperature for b in range(num_bins)
        ]
        shifted = np.exp(np.array(scores) - max(scores))
        member[i] = shifted / shifted.sum()
    total = 0.0
    for b in range(num_bins):
        size = member[:, b].sum()
        if size > 0:
            gap = (member[:, b] * c).sum() / size - (member[:, b] * a).sum() / size
            total += size / len(c) * abs(gap) ** norm
    return total ** (1 / norm)


def avuc(z, y, threshold):
    c, a = top(z, y)
    sums = {"AC": 0.0, "AU": 0.0, "IC": 0.0, "IU": 0.0}
    for confidence, hit, h in zip(c, a, entropies(z), strict=True):
        weight = confidence if hit else 1 - confidence
        unsure = math.tanh(h) if h > threshold else 1 - math.tanh(h)
        sums[("A" if hit else "I") + ("U" if h > threshold else "C")] += weight * unsure
    return math.log(1 + (sums["AU"] + sums["IC"]) / (sums["AC"] + sums["IU"]))


def soft_avuc(z, y, temperature=1.0, threshold=0.5):
    _, a = top(z, y)
    k = len(z[0])
    good = bad = 0.0
    for hit, h in zip(a, entropies(z), strict=True):
        e = h / math.log(k)
        score = math.log(e * (1 - threshold) / ((1 - e) * threshold)) / temperature
        t = 1 / (1 + math.exp(-score))
        sure, unsure = (1 - t) * (1 - math.tanh(h)), t * math.tanh(h)
        good += sure if hit else unsure
        bad += unsure if hit else sure
    return math.log(1 + bad / good)


def minus_log_sigmoid(x):
    return math.log1p(math.exp(-abs(x))) + max(0.0, -x)


def bdc(z, y):
    values = [
        minus_log_sigmoid(row[label] - row[j])
        for row, label in zip(z, y, strict=True)
        for j in range(len(row))
        if j != label
    ]
    return np.mean(values)


def bec(z, y):
    total = 0.0
    for row, label in zip(z, y, strict=True):
        k = len(row)
        others = [j for j in range(k) if j != label]
        pairs = [(j, m) for j in others for m in others if j != m]
        total += sum(minus_log_sigmoid(row[j] - row[m]) / 2 for j, m in pairs) / ((k - 1) * (k - 2))
    return total / len(y)


def cpc(z, y, weight_bdc=0.1, weight_bec=1.0):
    return weight_bdc * bdc(z, y) + weight_bec * bec(z, y)


def acls(z, y, margin=10.0, largest=1.0, others=0.1):
    high, apart = [], []
    for row in z:
        best = int(np.argmax(row))
        high.append(max(0.0, row[best] - margin) ** 2)
        apart += [max(0.0, row[best] - v - margin) ** 2 for j, v in enumerate(row) if j != best]
    return largest * np.mean(high) + others * np.mean(apart)


def mixup(z, y, mixed, weight):
    return weight * cross_entropy(z, y) + (1 - weight) * cross_entropy(z, mixed)


def normalised(z, zero_shot):
    rows = []
    for row, frozen in zip(z, zero_shot, strict=True):
        scale = (max(frozen) - min(frozen)) / (max(row) - min(row))
        rows.append([(value - min(row)) * scale + min(frozen) for value in row])
    return rows


def zs_penalty(z, zero_shot):
    above = [max(0.0, v - max(f)) for row, f in zip(z, zero_shot, strict=True) for v in row]
    below = [max(0.0, min(f) - v) for row, f in zip(z, zero_shot, strict=True) for v in row]
    return np.mean(above) + np.mean(below)
