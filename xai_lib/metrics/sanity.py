"""Does an explanation depend on what the network has learnt? Its weights are made random, and the map must change.

Cascading randomisation: Adebayo et al. 2018, "Sanity Checks for Saliency Maps", arXiv 1810.03292. Efficient MPRT: Hedström
et al. 2024, "A Fresh Look at Sanity Checks for Saliency Maps", arXiv 2405.02383. For any explainer of the common contract.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn

from xai_lib.classifiers import Classifier
from xai_lib.errors import XaiError, nearest
from xai_lib.explanation import Explainer, Explanation, Settings, Targets

Order = Literal["top_down", "bottom_up", "independent"]
"""`top_down`: from the output to the input, each layer on top of those before (the cascade); `bottom_up`: from the input;
`independent`: each layer alone, all others as learnt."""


class SanityError(XaiError):
    """A layer or an order that the network or the check does not have."""


@dataclass(frozen=True)
class Step:
    """One layer made random; `correlation` and `ssim` `(N,)` compare each image's map with that of the learnt network.

    `correlation` is Spearman's of all pixels, -1..1; NaN where one of the two maps is constant. `ssim` is of the maps
    stretched to 0..1 together, -1..1.
    """

    layer: str
    correlation: np.ndarray
    ssim: np.ndarray


@dataclass(frozen=True)
class Complexity:
    """Entropy in nats of the histogram of each image's map, `(N,)`, with learnt and with random weights, and the rise.

    A map that depends on the weights gets less ordered: `rise` `(N,)`, relative, is above zero. NaN where the entropy of
    the first is 0.
    """

    learnt: np.ndarray
    random: np.ndarray
    rise: np.ndarray


def cascading_randomisation(
    classifier: Classifier,
    explainer: Explainer,
    images: Tensor,
    targets: Targets = None,
    *,
    settings: Settings | None = None,
    seed: int = 0,
    layers: Sequence[str] | None = None,
    order: Order = "top_down",
    absolute: bool = False,
) -> list[Step]:
    """Explain `images` `(N, C, H, W)` for the same targets after each layer's weights have been drawn again.

    `layers`: the names after which the maps are compared (all layers are made random in their turn all the same, but for
    `independent`); None for all. `absolute`: compare absolute values of maps. The weights are drawn from `seed` as each
    layer's own `reset_parameters` draws them. Works on a copy of the classifier. Raises `SanityError`.
    """
    names = _chosen(classifier, layers, order)
    first = explainer.explain(classifier, images, targets, settings, seed)
    steps = []
    for name, changed in randomised(classifier, seed, order, names):
        if name in names:
            found = explainer.explain(changed, images, first.targets, settings, seed)
            steps.append(Step(name, *_compared(first, found, absolute)))
    return steps


def efficient_mprt(
    classifier: Classifier,
    explainer: Explainer,
    images: Tensor,
    targets: Targets = None,
    *,
    settings: Settings | None = None,
    seed: int = 0,
    bins: int = 100,
) -> Complexity:
    """Entropy of the maps before and after all weights have been drawn anew, and its relative rise (eMPRT, eqs. 5 and 6).

    The histogram of a map has `bins` equal cells between its least and its largest value.
    """
    learnt = explainer.explain(classifier, images, targets, settings, seed)
    *_, (_, changed) = randomised(classifier, seed)
    random = explainer.explain(changed, images, learnt.targets, settings, seed)
    before, after = (np.array([entropy(m, bins) for m in e.maps]) for e in (learnt, random))
    with np.errstate(divide="ignore", invalid="ignore"):
        rise = np.where(before > 0, (after - before) / before, np.nan)
    return Complexity(before, after, rise)


def weighted_layers(classifier: Classifier) -> list[str]:
    """Names of the modules that own weights and can draw them anew, in the order in which they are registered."""
    found = [n for n, m in classifier.network.named_modules() if _owns_weights(m)]
    if not found:
        raise SanityError(f"{classifier.name} has no layer with weights to draw anew")
    deaf = [n for n in found if not hasattr(classifier.layer(n), "reset_parameters")]
    if deaf:
        raise SanityError(
            f"{classifier.name}: {', '.join(deaf)} own weights and have no reset_parameters() to draw them anew; give them one"
        )
    return found


def randomised(
    classifier: Classifier, seed: int = 0, order: Order = "top_down", layers: Sequence[str] | None = None
) -> Iterator[tuple[str, Classifier]]:
    """A copy of the classifier, and the name of the layer that has just been made random; the copy changes between yields.

    A layer's weights depend on `seed` and its name, not on the order. Batch norms lose their running statistics too. In the
    order `independent` only `layers` are made random, each in a copy of its own.
    """
    _chosen(classifier, layers, order)
    names = weighted_layers(classifier)
    changed = _copied(classifier)
    for name in reversed(names) if order == "top_down" else names:
        if order == "independent":
            if layers is not None and name not in layers:
                continue
            changed = _copied(classifier)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(int(np.random.SeedSequence([seed, *name.encode()]).generate_state(1)[0]))
            cast(Any, changed.layer(name)).reset_parameters()
        yield name, changed


def _copied(classifier: Classifier) -> Classifier:
    try:
        return copy.deepcopy(classifier)
    except Exception as error:  # of foreign code: locks, tensors that hang in a graph
        raise SanityError(
            f"{classifier.name}: the network cannot be copied ({error}), and the check must not change it; keep nothing in its "
            "attributes that copy.deepcopy cannot copy"
        ) from error


def rank_correlation(one: np.ndarray, two: np.ndarray) -> float:
    """Spearman's correlation of two maps of the same shape; NaN where one is constant."""
    from scipy.stats import spearmanr

    if np.ptp(one) == 0 or np.ptp(two) == 0:
        return float("nan")
    return float(spearmanr(one, two, axis=None).statistic)


def entropy(values: Tensor | np.ndarray, bins: int = 100) -> float:
    """Entropy in nats of the histogram of all values: 0 for a constant map, at most log(bins)."""
    counts, _ = np.histogram(np.asarray(values, dtype=np.float64), bins)
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def _compared(first: Explanation, second: Explanation, absolute: bool) -> tuple[np.ndarray, np.ndarray]:
    from skimage.metrics import structural_similarity

    pairs = [(a.cpu().double().numpy(), b.cpu().double().numpy()) for a, b in zip(first.maps, second.maps, strict=True)]
    if absolute:
        pairs = [(np.abs(a), np.abs(b)) for a, b in pairs]
    correlations, similarities = [], []
    for a, b in pairs:
        span = max(a.max(), b.max()) - min(a.min(), b.min())
        correlations.append(rank_correlation(a, b))
        similarities.append(float(structural_similarity(a, b, data_range=span)) if span > 0 else 1.0)
    return np.array(correlations), np.array(similarities)


def _chosen(classifier: Classifier, layers: Sequence[str] | None, order: str) -> list[str]:
    if order not in get_args(Order):
        raise SanityError(f"order: expected {', '.join(get_args(Order))}, found {order!r}")
    known = weighted_layers(classifier)
    for name in layers or []:
        if name not in known:
            raise SanityError(f"{classifier.name} has no layer with weights called {name!r}; {nearest(name, known)}")
    return known if layers is None else list(layers)


def _owns_weights(module: nn.Module) -> bool:
    own = [*module.parameters(recurse=False)]
    return bool(own) or any(b.is_floating_point() for b in module.buffers(recurse=False))
