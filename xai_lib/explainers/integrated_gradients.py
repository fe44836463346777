"""Integrated gradients: the gradient of the logit, averaged on the straight way from a baseline to the image.

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

    def __post_init__(self) -> None:
        if self.baseline not in get_args(Baseline):
            raise ExplanationError(f"baseline: expected {', '.join(get_args(Baseline))}, found {self.baseline!r}")
        for name in ("steps", "internal_batch"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ExplanationError(f"{name}: expected an integer of at least 1, found {value!r}")


class IntegratedGradients(Explainer):
    """Each pixel's difference from the baseline times the mean gradient on the way, summed over channels.

    `details`: `logit` of the image, `baseline_logit`, and `completeness`: the sum of the map minus their difference, in
    logits, which goes to 0 with more steps. `calls`: every step goes forward and backward, image and baseline forward.
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

        start = baseline(image, settings.baseline)
        with torch.no_grad():
            logit, start_logit = (float(classifier(x[None])[0, target]) for x in (image, start))
        relevance = Integral(classifier).attribute(
            image[None], start[None], target, n_steps=settings.steps, internal_batch_size=settings.internal_batch
        )
        saliency = relevance.detach()[0].sum(0)
        calls = 2 * settings.steps + 2
        completeness = float(saliency.sum(dtype=torch.float64)) - (logit - start_logit)
        return saliency, calls, {
            "completeness": completeness, "logit": logit, "baseline_logit": start_logit, "calls": calls,
        }  # fmt: skip


def baseline(image: Tensor, kind: Baseline) -> Tensor:
    """The picture `(3, H, W)` from which the way to `image` `(3, H, W)`, in 0..1, begins."""
    if kind == "mean":
        return image.mean((1, 2), keepdim=True).expand_as(image)
    return torch.zeros_like(image) if kind == "black" else torch.ones_like(image)
