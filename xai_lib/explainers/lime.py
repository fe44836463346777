"""LIME for images, by its authors' package, and the same regression on stratified samples.

Ribeiro, Singh, Guestrin: "Why Should I Trust You?", KDD 2016, arXiv 1602.04938; package `lime` 0.2.0.1. Defaults are
the package's but for the fill: black, as in E-LIME's comparison, where the package takes mean colours.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xai_lib import explanation
from xai_lib.classifiers import Classifier
from xai_lib.explanation import Explainer, ExplanationError
from xai_lib.inference import FLOAT32, fast_network
from xai_lib.superpixels import Fill, Fitness, Segmentation, fill_of, segment


@dataclass(frozen=True)
class Settings(explanation.Settings):
    """What the `lime` package is called with."""

    samples: int = 1000  #: masked images sent through the network (package default)
    features: int = 5  #: superpixels shown, those with the largest positive weights (package default)
    segmentation: Segmentation = "quickshift"  #: package default
    fill: Fill = "black"  #: our choice for a fair comparison; the package's default is "mean"
    batch: int = 10  #: images a forward pass (package default)

    def __post_init__(self) -> None:
        if min(self.samples, self.features, self.batch) < 1:
            raise ExplanationError(f"LIME: samples, features and batch must be at least 1; found {self}")


class Lime(Explainer):
    """Weights of a linear model of the network's answers; the map shows each superpixel's weight."""

    name = "lime"
    title = "LIME: a linear model of random masks"
    source = "Ribeiro et al. 2016, arXiv 1602.04938"
    needs = "probabilities"
    cost = "1000"
    signed = True
    settings_class = Settings

    def explain_image(
        self, classifier: Classifier, image: Tensor, target: int, settings: Settings, rng: np.random.Generator
    ) -> tuple[Tensor, int, dict[str, Any]]:
        segments = segment(image, settings.segmentation)
        weights = self.weights(classifier, image, segments, target, settings, rng)
        fitness = Fitness(classifier, image, segments, target, calls=0, fill=settings.fill)
        kept = top_features(weights, settings.features)
        details = {
            "segments": segments.cpu(),
            "weights": weights,
            "kept": kept,
            "probability": float(fitness.probabilities(kept[None])[0]),
            "calls": settings.samples + 1,
        }
        return fitness.map_of(weights), settings.samples + 1, details

    def weights(
        self, classifier: Classifier, image: Tensor, segments: Tensor, target: int, settings: Settings,
        rng: np.random.Generator,
    ) -> np.ndarray:  # fmt: skip
        """The linear model's weight of each superpixel, `(d,)`."""
        from lime.lime_image import LimeImageExplainer

        normalised = classifier.normalise(torch.stack([image, fill_of(image, segments, settings.fill)]))
        network = fast_network(classifier, replace(FLOAT32, inner_batch=settings.batch), normalised)
        shown, removed = normalised

        def answer(pixels: np.ndarray) -> np.ndarray:
            kept = torch.from_numpy(pixels[..., 0] > 0).to(image.device)
            logits = network.logits(torch.where(kept[:, None], shown, removed))
            return classifier.probabilities_of(logits).cpu().numpy()

        explainer = LimeImageExplainer(random_state=int(rng.integers(2**31)))
        with contextlib.redirect_stderr(io.StringIO()):  # the package draws a progress bar and has no switch for it
            # it masks a white image of three colours, from which `answer` tells what is kept, of any number of channels
            found = explainer.explain_instance(
                np.ones((*image.shape[1:], 3)), answer, labels=(target,), top_labels=None, hide_color=0,
                num_samples=settings.samples, batch_size=settings.batch,
                segmentation_fn=lambda _: segments.cpu().numpy(),
            )  # fmt: skip
        return _by_superpixel(found.local_exp[target], int(segments.max()) + 1)


class LimeStratified(Lime):
    """LIME whose masks keep every number of superpixels equally often, where LIME's keep half of them nearly always.

    After Rashid et al., "Using Stratified Sampling to Improve LIME Image Explanations", AAAI 2024, arXiv 2403.17742,
    in its plain form: the number kept is uniform over 0..d, then which ones is uniform. The regression is `lime`'s.
    """

    name = "lime_stratified"
    title = "LIME on masks stratified by size"
    source = "Rashid et al. 2024, arXiv 2403.17742"

    def weights(
        self, classifier: Classifier, image: Tensor, segments: Tensor, target: int, settings: Settings,
        rng: np.random.Generator,
    ) -> np.ndarray:  # fmt: skip
        from lime.lime_base import LimeBase

        fitness = Fitness(classifier, image, segments, target, calls=settings.samples, fill=settings.fill)
        masks = stratified_masks(settings.samples, fitness.d, rng)
        scores = fitness(masks)
        labels = (1 / (1 + np.exp(-scores)))[:, None]
        with np.errstate(invalid="ignore"):
            distances = 1 - np.sqrt(masks.mean(1))  # cosine distance of a mask to the full one
        base = LimeBase(lambda d: np.sqrt(np.exp(-(d**2) / 0.25**2)), random_state=int(rng.integers(2**31)))
        _, found, _, _ = base.explain_instance_with_data(masks.astype(float), labels, distances, 0, fitness.d)
        return _by_superpixel(found, fitness.d)


def stratified_masks(n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """`n` masks bool `(n, d)`, the first the full one, the number kept uniform over 0..d."""
    ranks = rng.random((n, d)).argsort(1)
    masks = ranks < rng.integers(0, d + 1, (n, 1))
    masks[0] = True
    return masks


def top_features(weights: np.ndarray, features: int) -> np.ndarray:
    """The mask that LIME shows: at most `features` superpixels, the largest weights, positive ones only."""
    order = np.argsort(-weights, kind="stable")[:features]
    kept = np.zeros(len(weights), dtype=bool)
    kept[order[weights[order] > 0]] = True
    return kept


def ranking_masks(weights: np.ndarray) -> np.ndarray:
    """The best 1, 2, ... d superpixels by weight, bool `(d, d)`: every number of features LIME could show."""
    order = np.argsort(-weights, kind="stable")
    place = np.empty(len(weights), dtype=int)
    place[order] = np.arange(len(weights))
    return place[None] <= np.arange(len(weights))[:, None]


def _by_superpixel(pairs: list[tuple[int, float]], d: int) -> np.ndarray:
    weights = np.zeros(d)
    for superpixel, weight in pairs:
        weights[superpixel] = weight
    return weights

