"""Integrated gradients: the gradient of the score, averaged on the straight way from a baseline to the image.

The package captum does the integral, by Gauss-Legendre quadrature, over the classifier itself: images in 0..1, so that the
black baseline is the black picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from xai_lib import explanation
from xai_lib.classifiers import Classifier
from xai_lib.explanation import Explainer, ExplanationError
from xai_lib.feature_maps import Score, check_score, score_of
from xai_lib.layer_inputs import check_complete, check_map, gradients_in_words

Baseline = Literal["black", "mean", "white"]
"""Where the way begins: a picture all black, all in the image's own mean colour, or all white."""


@dataclass(frozen=True)
class Settings(explanation.Settings):
    """How fine the integral is, and where it begins."""

    steps: int = 50
    """Gradients on the way; 20 to 300 are enough says the paper's section 5, 50 is captum's default."""
    baseline: Baseline = "black"  #: the paper's choice for images, section 3
    internal_batch: int = 4
    """Steps in one pass, which bounds the memory; the map depends on it by rounding alone."""
    score: Score = "log_odds"
    """What is integrated: z_t - logsumexp(other logits) (our choice), whose gradient does not vanish where the network is
    sure; the softmax "probability", as the paper's section 6.1; or the "logit", which is not compared with other classes."""

    def __post_init__(self) -> None:
        check_score(self.score)
        if self.baseline not in get_args(Baseline):
            raise ExplanationError(f"baseline: expected {', '.join(get_args(Baseline))}, found {self.baseline!r}")
        for name in ("steps", "internal_batch"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ExplanationError(f"{name}: expected an integer of at least 1, found {value!r}")


class IntegratedGradients(Explainer):
    """Each pixel's difference from the baseline times the mean gradient on the way, summed over channels.

    `details`: `score` of the image, `baseline_score`, and `completeness`: the sum of the map minus their difference, in units
    of the score, which goes to 0 with more steps; `logit` and `baseline_logit` of the same class. `calls`: every step goes
    forward and backward, image and baseline forward.
    """

    name = "integrated_gradients"
    title = "Integrated gradients: the mean gradient on the way from black"
    source = "Sundararajan, Taly, Yan 2017, arXiv 1703.01365"
    needs = "gradients"
    cost = "102"
    signed = True
    settings_class = Settings

    def explain_image(
        self, classifier: Classifier, image: Tensor, target: int, settings: Settings, rng: np.random.Generator
    ) -> tuple[Tensor, int, dict[str, Any]]:
        from captum.attr import IntegratedGradients as Integral  # half a second that other methods need not spend

        start, wanted = baseline(image, settings.baseline), torch.tensor([[target]], device=image.device)

        def score(images: Tensor) -> Tensor:
            return score_of(classifier, classifier(images), wanted.expand(len(images), -1), settings.score)[:, 0]

        with torch.no_grad():
            both = [classifier(x[None]) for x in (image, start)]
            logit, start_logit = (float(z[0, target]) for z in both)
            high, low = (float(score_of(classifier, z, wanted, settings.score)) for z in both)
        with gradients_in_words(classifier):
            relevance = Integral(score).attribute(
                image[None], start[None], n_steps=settings.steps, internal_batch_size=settings.internal_batch
            )
        saliency = relevance.detach()[0].sum(0)
        check_map(classifier, saliency)
        calls = 2 * settings.steps + 2
        completeness = float(saliency.sum(dtype=torch.float64)) - (high - low)
        check_complete(classifier, score, image[None], completeness, high - low)
        return saliency, calls, {
            "completeness": completeness, "score": high, "baseline_score": low, "logit": logit, "baseline_logit": start_logit,
            "calls": calls,
        }  # fmt: skip


def baseline(image: Tensor, kind: Baseline) -> Tensor:
    """The picture `(C, H, W)` from which the way to `image` `(C, H, W)`, in 0..1, begins."""
    if kind == "mean":
        return image.mean((1, 2), keepdim=True).expand_as(image)
    return torch.zeros_like(image) if kind == "black" else torch.ones_like(image)
