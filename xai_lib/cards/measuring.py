"""What a card says of a method, measured on drawn critters and the small networks that come with the package."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xai_lib import classifiers, critters
from xai_lib.classifiers import Classifier
from xai_lib.explanation import Explainer, Explanation
from xai_lib.metrics import faithfulness, localisation, sanity

NOISE = 0.02  #: standard deviation of what is added to a picture, of values in 0..1 (our choice)


@dataclass(frozen=True)
class Bench:
    """What the methods are measured on: pictures `(N, 3, H, W)` that the classifier names rightly, masks of what is drawn."""

    classifier: Classifier
    images: Tensor = field(repr=False)
    masks: Tensor = field(repr=False)
    targets: Tensor = field(repr=False)
    others: Tensor = field(repr=False)  #: the second most probable class of each


def bench(number: int = 6, seed: int = 40) -> Bench:
    """The first `number` critters, class by class, that `critters_vgg19` names rightly."""
    classifier = classifiers.load("critters_vgg19")
    every = len(critters.CLASSES)
    drawn = critters.batch([i % every for i in range(4 * number)], [i // every for i in range(4 * number)], seed=seed)
    order = classifier.probabilities(drawn.images).argsort(1, descending=True)
    right = (order[:, 0] == drawn.labels).nonzero()[:number, 0]
    return Bench(classifier, drawn.images[right], drawn.mask()[right], order[right, 0], order[right, 1])


def measure(explainer: Explainer, on: Bench) -> dict[str, Any]:
    """All numbers of a card, at the method's default settings; correlations are Spearman's, means over the pictures."""
    explainer.explain(on.classifier, on.images[:1], on.targets[:1])  # warm: the seconds below count
    first = explainer.explain(on.classifier, on.images, on.targets)

    def again(images: Tensor | None = None, targets: Tensor | None = None, seed: int = 0) -> Explanation:
        seen, asked = on.images if images is None else images, on.targets if targets is None else targets
        return explainer.explain(on.classifier, seen, asked, seed=seed)

    rng = torch.Generator().manual_seed(0)
    noisy = (on.images + NOISE * torch.randn(on.images.shape, generator=rng)).clamp(0, 1)
    *_, (_, random) = sanity.randomised(on.classifier)
    second = explainer.explain(random, on.images, on.targets)
    return {
        "images": len(on.images),
        "calls": first.network_calls / len(on.images),
        "seconds": first.seconds / len(on.images),
        "same_seed": _alike(first, again()),
        "other_seed": _alike(first, again(seed=1)),
        "noise": _alike(first, again(noisy)),
        "label": _alike(first, again(targets=on.others)),
        "weights": _alike(first, second),
        "mass": _mean(localisation.relevance_mass_accuracy(first.maps, on.masks)),
        "rank": _mean(localisation.relevance_rank_accuracy(first.maps, on.masks)),
        "pointing": _mean(localisation.pointing_game(first.maps, on.masks)),
        "chance": _mean(localisation.chance(on.masks)),
        "sparseness": _mean(faithfulness.sparseness(first.maps)),
        "sum": _sums(first, on),
    }


@torch.no_grad()
def _sums(found: Explanation, on: Bench) -> dict[str, float] | None:
    """Relative error of the sum of a signed map, against the logit, and against its difference to that of black: medians."""
    if not found.signed:
        return None
    rows = torch.arange(len(on.images))
    logits = on.classifier(on.images)[rows, on.targets]
    black = on.classifier(torch.zeros_like(on.images))[rows, on.targets]
    total = found.maps.double().sum((1, 2))
    kept = torch.tensor([info.get("biases", 0.0) for info in found.details], dtype=torch.float64)
    errors = {"logit": total - logits, "logit less that of black": total - (logits - black)}
    if bool(kept.any()):
        errors["logit, with what the biases keep"] = total + kept - logits
    return {what: float((error.abs() / logits.abs()).median()) for what, error in errors.items()}


def _alike(one: Explanation, two: Explanation) -> float:
    """Mean rank correlation of the maps; a pair of equal constant maps is left out."""
    pairs = zip(one.maps.double().numpy(), two.maps.double().numpy(), strict=True)
    found = np.array([sanity.rank_correlation(a, b) for a, b in pairs])
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def _mean(values: Tensor) -> float:
    return float(values.double().nanmean())
