"""A linear probe: a label head on features of a frozen network, fitted in seconds.

Shapes: N images, D feature width, C labels.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eet.errors import InputError

LEARNING_RATE, WEIGHT_DECAY, FEATURE_NOISE, LABEL_SMOOTHING, BATCH = 3e-3, 0.01, 0.3, 0.1, 64
FEWEST_STEPS, MOST_STEPS, EPOCHS = 500, 30_000, 60


class LinearHead(NamedTuple):
    """A label head: logits = features @ weight_CD.T + bias_C.

    Attributes:
        weight_CD: float32 (C, D).
        bias_C: float32 (C,).
    """

    weight_CD: Tensor
    bias_C: Tensor


def fit_probe(features_ND: np.ndarray, labels_N: np.ndarray, *, num_labels: int, seed: int) -> LinearHead:
    """Fits a label head on stored features: cross entropy with label smoothing on z-scored features with noise, AdamW.

    The returned head includes the z-scoring, so its input are the stored features.

    Args:
        features_ND: real numbers (N, D), finite, N >= 1.
        labels_N: integers (N,) in 0 .. num_labels - 1.
        num_labels: C.
        seed: of the order of images, of the noise and of the initial weights.

    Raises:
        InputError: no features, features that are not finite, or shapes that do not fit.
    """
    features_ND = np.asarray(features_ND, dtype=np.float32)
    if features_ND.ndim != 2 or not len(features_ND) or features_ND.shape[:1] != labels_N.shape:
        raise InputError(f"features are {features_ND.shape} and labels {labels_N.shape}: give one row and one label for each image")
    if not np.isfinite(features_ND).all():
        raise InputError("features are not finite: the weights of the network are broken; start from other weights")
    random = torch.Generator().manual_seed(seed)
    mean_D, deviation_D = features_ND.mean(axis=0), features_ND.std(axis=0) + 1e-6
    x_ND = torch.from_numpy((features_ND - mean_D) / deviation_D)
    y_N = torch.from_numpy(np.asarray(labels_N, dtype=np.int64))
    num_images, width = x_ND.shape
    head = torch.nn.Linear(width, num_labels)
    torch.nn.init.trunc_normal_(head.weight, std=0.02, generator=random)
    torch.nn.init.zeros_(head.bias)
    optimizer = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    per_epoch = -(-num_images // BATCH)
    steps = min(MOST_STEPS, max(FEWEST_STEPS, EPOCHS * per_epoch))
    order_N = torch.empty(0, dtype=torch.int64)
    for step in range(steps):
        batch = step % per_epoch
        if batch == 0:
            order_N = torch.randperm(num_images, generator=random)
        rows = order_N[batch * BATCH : (batch + 1) * BATCH]
        noisy = x_ND[rows] + FEATURE_NOISE * torch.randn(len(rows), width, generator=random)
        optimizer.zero_grad()
        F.cross_entropy(head(noisy), y_N[rows], label_smoothing=LABEL_SMOOTHING).backward()
        optimizer.step()
    weight_CD = head.weight.detach() / torch.from_numpy(deviation_D)
    return LinearHead(weight_CD, head.bias.detach() - weight_CD @ torch.from_numpy(mean_D))
