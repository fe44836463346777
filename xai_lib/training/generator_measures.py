"""How good a generator of critters is: distance of distributions, and whether a picture is of the class that was asked for."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy import linalg
from torch import Tensor
from torch.nn import functional as F

from xai_lib import generators
from xai_lib.classifiers import Classifier
from xai_lib.generators import Generator
from xai_lib.metrics import intervals
from xai_lib.training.loop import Samples


class Measures(NamedTuple):
    """Of one generator. `distance`: Fréchet, in features of a classifier; `share`, `low`, `high`: consistency with interval."""

    distance: float
    share: float
    low: float
    high: float
    by_class: tuple[float, ...]
    pictures: int


def frechet_distance(one: Tensor, other: Tensor) -> float:
    """Fréchet distance of two normal distributions fitted to features `(N, D)` and `(M, D)` (Heusel et al. 2017; theirs are
    Inception's, so numbers do not compare)::

        |m1 - m2|^2 + trace(S1 + S2 - 2 (S1 S2)^(1/2))
    """
    (m1, s1), (m2, s2) = ((x.mean(0), np.cov(x, rowvar=False)) for x in (t.double().numpy() for t in (one, other)))
    values = linalg.eigvals(s1 @ s2).real.clip(min=0)  # trace of a root: the sum of roots of eigenvalues
    return float(((m1 - m2) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * np.sqrt(values).sum())


@torch.no_grad()
def pooled_features(classifier: Classifier, pictures: Tensor, batch: int = 250) -> tuple[Tensor, Tensor]:
    """The last features averaged over positions, `(N, C)`, and logits, of pictures uint8 or 0..1."""
    found: list[Tensor] = []
    hook = classifier.layer(classifier.feature_layer).register_forward_hook(lambda _m, _i, out: found.append(out.mean((2, 3))))
    samples = Samples(pictures, torch.zeros(len(pictures), dtype=torch.long))
    try:
        logits = [classifier(samples.batch(part)) for part in torch.arange(len(pictures)).split(batch)]
    finally:
        hook.remove()
    return torch.cat(found), torch.cat(logits)


@torch.no_grad()
def made(generator: Generator, labels: Tensor, seed: int, batch: int = 250) -> Tensor:
    """A picture of each label asked for, `(N, 3, H, W)` in 0..1."""
    z, classes = generators.noise(len(labels), generator.z_dim, seed), F.one_hot(labels, generator.classes).float()
    return torch.cat([generator(a, b) for a, b in zip(z.split(batch), classes.split(batch), strict=True)])


def measure(generator: Generator, classifier: Classifier, real: Tensor, count: int = 2000, seed: int = 77) -> Measures:
    """Measures over `count` pictures, the classes in turn, against `real` pictures `(N, 3, H, W)`."""
    labels = torch.arange(count) % generator.classes
    features, logits = pooled_features(classifier, made(generator, labels, seed))
    right = logits.argmax(1) == labels
    _, low, high = intervals.wilson(int(right.sum()), count)
    by_class = tuple(float(right[labels == c].float().mean()) for c in range(generator.classes))
    distance = frechet_distance(features, pooled_features(classifier, real)[0])
    return Measures(distance, float(right.float().mean()), low, high, by_class, count)
