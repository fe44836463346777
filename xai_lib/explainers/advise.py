"""ADVISE: units of a layer are scored by the peaks of an adaptive density, and each score has its saliency map.

Dehshibi, Ashtari-Majlan, Adhane, Masip: "ADVISE: ADaptive Feature Relevance and VISual Explanations for Convolutional
Neural Networks", arXiv 2203.01289 (2022). What the text says and what the authors' code does are two methods; both are
here, as the two modes of `Settings`. The density itself is `adaptive_kde`, eqs. 1 to 9.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from xai_lib import explanation
from xai_lib.adaptive_density import Density, DensityError, adaptive_kde, count_peaks
from xai_lib.classifiers import Classifier
from xai_lib.classifiers.layers import before_last_convolution, find
from xai_lib.explanation import Explainer, ExplanationError
from xai_lib.feature_maps import Score, enlarge, feature_maps, rescale
from xai_lib.metrics import avx

Mode = Literal["as_code", "as_paper"]


@dataclass(frozen=True)
class Settings(explanation.Settings):
    """Which of the two methods, on which layer, and how the reported map is chosen."""

    mode: Mode = "as_code"
    """`as_code`: densities of the activations, as they are (authors' code). `as_paper`: densities of the gradients (text), each
    unit's stretched to 0..1 (our choice: raw gradients all fall into one cell)."""
    layer: str = ""
    """Dotted name. "": the last convolutional features before pooling, after their activation (our choice for networks
    that the paper does not name); in `as_paper`, where gradients there are constant over space, the layer that feeds the
    last convolution (our choice)."""
    score: Score | Literal[""] = ""
    """What is differentiated. "": with `as_code` the log-odds of the class (our choice: maps are those of the probability, as it
    has its direction, and it does not vanish where the probability rounds to 1), with `as_paper` the logit (text: "score").
    "probability" is the authors' code; in float32 its maps are noise, and then zero, where the network is sure."""
    bandwidths: int = 10  #: M, bandwidths that are tried (authors' code)
    definition: avx.Definition = "code"  #: of the metric by which the reported map is chosen: the authors' code or the text
    mask: avx.Mask = "binary"  #: as the authors' code masks an image with a map: at 0.5; "soft": by the map itself (text)

    def __post_init__(self) -> None:
        wrong = [n for n, known in _KNOWN.items() if getattr(self, n) not in known]
        if wrong or self.bandwidths < 1:
            rule = "; ".join(f"{n}: {' or '.join(known)}" for n, known in _KNOWN.items())
            raise ExplanationError(f"ADVISE takes {rule}; bandwidths of at least 1; found {self}")

    @property
    def differentiated(self) -> Score:
        """The score, where none is named the mode's."""
        return self.score or ("log_odds" if self.mode == "as_code" else "logit")


_KNOWN = {
    "mode": ("as_code", "as_paper"), "score": ("", *get_args(Score)), "definition": ("code", "paper"), "mask": ("binary", "soft"),
}  # fmt: skip


@dataclass(frozen=True)
class Groups:
    """Everything ADVISE finds for one image and two classes, `K` units of `Z = h * w` values, `G` peak groups.

    `scores` `(K,)`: peaks of each unit's density. `peaks`: the score of each group that has units and a map that is not
    all zero, ascending. `low` `(2, G, h, w)`: ReLU of the units' weighted sum, for both classes; `maps`, `second_maps`
    `(G, H, W)`: the same stretched to 0..1 and enlarged, for the first and the second class, bicubic overshoot included.
    `alphas` `(2, K)`: the weights, gradients averaged over space. `samples` `(K, Z)`: what the density was taken of.
    `kde_seconds`: time of the densities alone, which is the authors' measure before they divide by the groups.
    """

    targets: tuple[int, int]
    layer: str
    scores: Tensor
    peaks: list[int]
    low: Tensor
    maps: Tensor
    second_maps: Tensor
    alphas: Tensor
    activations: Tensor
    gradients: Tensor
    samples: Tensor
    density: Density
    kde_seconds: float
    seconds: float


class Advise(Explainer):
    """The map of the peak group with the highest AVX, which is what the authors report."""

    name = "advise"
    title = "ADVISE: units grouped by the peaks of an adaptive density"
    source = "Dehshibi et al. 2022, arXiv 2203.01289"
    needs = "layers"
    cost = "about 8"
    signed = False
    settings_class = Settings

    def explain_image(
        self, classifier: Classifier, image: Tensor, target: int, settings: Settings, rng: np.random.Generator
    ) -> tuple[Tensor, int, dict[str, Any]]:
        found = groups(classifier, image, target, settings)
        details: dict[str, Any] = {"groups": found, "reported": None, "avx": [], "calls": 3}
        if not found.peaks:
            return image.new_zeros(image.shape[1:]), 3, details
        details["reported"], details["avx"] = best(classifier, image, found, settings)
        details["calls"] += 1 + len(found.peaks)
        return found.maps[details["reported"]].clamp(min=0), details["calls"], details


def groups(classifier: Classifier, image: Tensor, target: int | None = None, settings: Settings | None = None) -> Groups:
    """Algorithm 1 for one image `(3, H, W)` in 0..1 up to the maps: scores of the units, and a map a peak group.

    `target`: the first class; None for the most probable one. The second is the most probable of the others. One forward
    pass and two short backward passes. Raises `ExplanationError` for a layer without maps.
    """
    settings, started = settings or Settings(), time.perf_counter()
    if classifier.classes < 2:
        raise ExplanationError(
            f"{classifier.name}: ADVISE compares two classes, and there is one output; make it two columns with "
            "output=lambda o: torch.cat([-o, o], 1) / 2, or take another method"
        )
    size = (image.shape[1], image.shape[2])
    layer = settings.layer if settings.mode == "as_code" or settings.layer else _varying_layer(classifier, image)
    layer = find(classifier, layer or classifier.given_layer or "", size).name
    wanted = torch.tensor([[-1 if target is None else target, -1]])
    first = feature_maps(classifier, image[None], layer, wanted, settings.differentiated)
    activations, gradients = first.activations[0], first.gradients[:, 0]
    samples = activations.flatten(1) if settings.mode == "as_code" else rescale(gradients[0]).flatten(1)
    began = time.perf_counter()
    density = adaptive_kde(samples, n_bandwidths=settings.bandwidths)
    scores = count_peaks(density.density).to(image.device)
    kde_seconds = time.perf_counter() - began
    alphas = gradients.mean((-2, -1))
    peaks, low = group_maps(activations, alphas, scores)
    maps, second = enlarge(rescale(low), size)
    one, two = first.targets[0].tolist()
    return Groups(
        (one, two), layer, scores, peaks, low, maps, second, alphas, activations, gradients, samples, density, kde_seconds,
        time.perf_counter() - started,
    )  # fmt: skip


def group_maps(activations: Tensor, alphas: Tensor, scores: Tensor, relu: bool = True) -> tuple[list[int], Tensor]:
    """For every number of peaks p that has units, ReLU of the sum of alpha times activation over them (Algorithm 1).

    `activations` `(K, h, w)`, `alphas` `(T, K)`, `scores` `(K,)` -> the p whose map of the first class is not all zero,
    ascending, and their maps `(T, G, h, w)`. `relu=False` leaves the sum as it is (Figure 5).
    """
    present = scores.unique()
    member = (scores == present[:, None]).to(alphas.dtype)
    sums = torch.einsum("tk,gk,khw->tghw", alphas, member, activations)
    sums = sums.relu() if relu else sums
    kept = (sums[0] != 0).flatten(1).any(1)
    return present[kept].tolist(), sums[:, kept]


def best(classifier: Classifier, image: Tensor, found: Groups, settings: Settings | None = None) -> tuple[int, list[avx.Scores]]:
    """The place of the group with the highest AVX, NaN left out, and the scores of all (authors' code)."""
    settings = settings or Settings()
    scores = avx.evaluate(
        classifier, image, found.maps, found.second_maps, found.targets, definition=settings.definition, mask=settings.mask
    )
    return int(np.argmax([-1.0 if np.isnan(s.avx) else s.avx for s in scores])), scores


def _varying_layer(classifier: Classifier, image: Tensor) -> str:
    """The last features before pooling, or, where their gradients are constant over space, what feeds the last convolution."""
    gradients = feature_maps(classifier, image[None], targets=1, score="logit").gradients[0, 0]
    size = (image.shape[1], image.shape[2])
    last = find(classifier, classifier.given_layer or "", size).name
    if float(gradients.std((-2, -1)).amax()) > 1e-5 * float(gradients.abs().amax()):
        return last
    name = before_last_convolution(classifier, size)
    if not name:
        raise ExplanationError(
            f"{classifier.name}: at {last!r} gradients are constant over space, and no layer feeds the last convolution; name "
            "one with layer="
        )
    return name


__all__ = [
    "Advise", "Density", "DensityError", "Groups", "Settings", "adaptive_kde", "best", "count_peaks", "group_maps", "groups",
]  # fmt: skip
