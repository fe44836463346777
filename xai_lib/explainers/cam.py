"""Class activation maps, all of one layer: Grad-CAM, Grad-CAM++, Layer-CAM, Score-CAM, and FEM, which needs no class.

The maps of the gradient methods come from the package torchcam, handed the activations and gradients of one forward pass
and a short backward pass a class, which the three share. Score-CAM keeps the scores of all classes, so that a second class
costs no forward pass. Maps are at the layer's size, before any stretching; an explanation stretches them to 0..1, enlarges
them (bicubic) and cuts off what falls below 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchcam.methods import GradCAM, LayerCAM

from xai_lib import explanation
from xai_lib.classifiers import Classifier
from xai_lib.classifiers.layers import find
from xai_lib.explanation import Explainer, ExplanationError
from xai_lib.feature_maps import FeatureMaps, Score, all_scores, check_score, enlarge, feature_maps, rescale
from xai_lib.inference import FLOAT32, fast_network, plan_for


@dataclass(frozen=True)
class Settings(explanation.Settings):
    """On which layer, and of which score."""

    layer: str = ""  #: dotted name; "" for the last convolutional features before pooling
    score: Score = "log_odds"
    """What is differentiated: the log-odds of the class (our choice: the direction of the probability's gradient, which does not
    vanish where the probability rounds to 1), the softmax probability (as ADVISE's authors call Grad-CAM) or the logit (the CAM
    papers, which it equals in direction for two classes of opposite logits alone)."""
    confidence: Score = "logit"  #: what Score-CAM compares (logit: as torchcam does)

    def __post_init__(self) -> None:
        check_score(self.score)
        check_score(self.confidence)


class _CAM(Explainer):
    needs = "layers"
    signed = False
    settings_class = Settings
    cost = "2"

    def explain_image(
        self, classifier: Classifier, image: Tensor, target: int, settings: Settings, rng: np.random.Generator
    ) -> tuple[Tensor, int, dict[str, Any]]:
        low, calls = self._low(classifier, image, target, settings)
        size = (image.shape[1], image.shape[2])
        saliency = enlarge(rescale(low), size).clamp(min=0)
        layer = find(classifier, settings.layer or classifier.given_layer or "", size).name
        return saliency, calls, {"low": low.cpu(), "layer": layer, "calls": calls}

    def _low(self, classifier: Classifier, image: Tensor, target: int, settings: Settings) -> tuple[Tensor, int]:
        maps = shared(classifier, image[None], torch.tensor([[target]]), [self.name], settings)
        return maps[self.name][0, 0], 2


class GradCam(_CAM):
    """Units weighted by their mean gradient."""

    name = "grad_cam"
    title = "Grad-CAM: units weighted by their mean gradient"
    source = "Selvaraju et al. 2017, arXiv 1610.02391"


class GradCamPlusPlus(_CAM):
    """Units weighted by positive gradients, the share of each place taken from higher derivatives."""

    name = "grad_cam_pp"
    title = "Grad-CAM++: positive gradients, weighted by place"
    source = "Chattopadhay et al. 2018, arXiv 1710.11063"


class LayerCam(_CAM):
    """Every value of every unit weighted by its own positive gradient."""

    name = "layer_cam"
    title = "Layer-CAM: each value times its positive gradient"
    source = "Jiang et al. 2021, IEEE TIP 30"


class ScoreCam(_CAM):
    """Units weighted by the score of the image that each lets through."""

    name = "score_cam"
    title = "Score-CAM: units weighted by the score of what they show"
    source = "Wang et al. 2020, arXiv 1910.01279"
    cost = "units of the layer"

    def _low(self, classifier: Classifier, image: Tensor, target: int, settings: Settings) -> tuple[Tensor, int]:
        found, calls = _score_cam(classifier, image, torch.tensor([target]), settings, True)
        return found[0], calls


class Fem(_CAM):
    """Where units exceed their own mean by two deviations, each weighted by its mean: no class, no gradient."""

    name = "fem"
    title = "FEM: where units stand out from their own mean"
    source = "Fuad et al. 2020, IPTA, doi 10.1109/IPTA50016.2020.9286629"
    cost = "1"

    def _low(self, classifier: Classifier, image: Tensor, target: int, settings: Settings) -> tuple[Tensor, int]:
        return fem(feature_maps(classifier, image[None], settings.layer).activations)[0], 1


SHARED = ("grad_cam", "grad_cam_pp", "layer_cam", "fem")


def shared(
    classifier: Classifier,
    images: Tensor,
    targets: Tensor,
    methods: Sequence[str] = SHARED,
    settings: Settings | None = None,
    *,
    relu: bool = True,
    maps: FeatureMaps | None = None,
) -> dict[str, Tensor]:
    """Maps `(T, N, h, w)` of several methods for the classes `targets` `(N, T)` of `images` `(N, 3, H, W)` in 0..1.

    One forward pass and `T` short backward passes serve all methods; with `maps`, which must hold the gradients of those
    classes (-1, a class left open, fits any), none. `relu=False` leaves out the ReLU at the end. Values are in units of the
    layer times those of the score. Raises `ExplanationError` for a method that does not share, and for `maps` of other classes.
    """
    unknown = [m for m in methods if m not in SHARED]
    if unknown:
        raise ExplanationError(f"{', '.join(unknown)}: no method that shares one pass; those are {', '.join(SHARED)}")
    settings = settings or Settings()
    maps = maps or feature_maps(classifier, images, settings.layer, targets, settings.score)
    if maps.targets.shape != targets.shape or bool(((targets >= 0) & (targets != maps.targets.to(targets.device))).any()):
        raise ExplanationError(f"maps: expected the gradients of classes {targets.tolist()}, found {maps.targets.tolist()}")
    found = {}
    for method in methods:
        if method == "fem":
            found[method] = fem(maps.activations, relu=relu).expand(len(maps.gradients), -1, -1, -1)
        else:
            found[method] = torch.stack([gradient_cam(method, maps.activations, g, relu) for g in maps.gradients])
    return found


def gradient_cam(method: str, activations: Tensor, gradients: Tensor, relu: bool = True) -> Tensor:
    """The map `(N, h, w)` of `grad_cam`, `grad_cam_pp` or `layer_cam` from `(N, K, h, w)` activations and gradients."""
    if method not in _EXTRACTORS:
        raise ExplanationError(f"{method}: no method that needs gradients alone; those are {', '.join(_EXTRACTORS)}")
    extractor = _EXTRACTORS[method](nn.Sequential(nn.Identity()), "0")
    extractor.hook_a, extractor.hook_g = [activations], [gradients]
    extractor._relu = relu
    extractor._backprop = lambda *_, **__: None  # type: ignore[method-assign]  # the gradients are there already
    return extractor.compute_cams(0, gradients, normalized=False)[0]


class _GradCAMpp(GradCAM):
    """Grad-CAM++ by its paper, eqs. 18 and 19: the exponential of the score is what is differentiated, so that all orders
    follow from the first; a positive factor, common to all units, is left out.

    torchcam 0.5.0 sums the product of activations and cubed gradients where the paper multiplies the activations' sum by
    each cubed gradient, and divides a copy, so that its weights miss the division: they are the sums of the cubed positive
    gradients. With `score="probability"` the gradients are small and each place's share is nearly one half. Before an
    activation the sum of a unit may be negative and a share of any size: the paper's formula is for what lies behind a ReLU.
    """

    def _get_weights(self, class_idx: int | list[int], scores: Tensor, **kwargs: Any) -> list[Tensor]:
        activations, gradients = cast(Tensor, self.hook_a[0]), self.hook_g[0]
        below = 2 + activations.sum((-2, -1), keepdim=True) * gradients  # eq. 19, both sides divided by the squared gradient
        share = torch.where((gradients != 0) & (below != 0), 1 / torch.where(below != 0, below, 1), 0)
        return [(share * gradients.relu()).sum((-2, -1))]


_EXTRACTORS: dict[str, type[GradCAM] | type[LayerCAM]] = {"grad_cam": GradCAM, "grad_cam_pp": _GradCAMpp, "layer_cam": LayerCAM}


def fem(activations: Tensor, deviations: float = 2.0, relu: bool = True) -> Tensor:
    """Features Explanation Method of `(N, K, h, w)`: `(N, h, w)`, the sum over units of their mean where they exceed it by
    `deviations` standard deviations.

    Two deviations, those of the population, strictly exceeded, are the authors' notebook's; a constant unit adds nothing.
    The ReLU at the end is our choice: it matters where units have negative means, before an activation.
    """
    mean = activations.mean((-2, -1), keepdim=True)
    above = activations > mean + deviations * activations.std((-2, -1), correction=0, keepdim=True)
    sums = (above * mean).sum(1)
    return sums.relu() if relu else sums


def score_cam(
    classifier: Classifier, image: Tensor, targets: Tensor, settings: Settings | None = None, relu: bool = True
) -> Tensor:
    """Score-CAM `(T, h, w)` of one image `(3, H, W)` in 0..1 for the classes `targets` `(T,)`.

    Each unit, stretched to 0..1 and enlarged (bilinear), masks the image: what it hides is black. The softmax over units of
    what the masked images score above the whole one are the weights. The masked images go through the network once for all
    classes, on the copy of `xai_lib.inference` in float32; units that are constant give a black image and are sent once.
    Raises `ExplanationError` for classes that the network lacks.
    """
    return _score_cam(classifier, image, targets, settings or Settings(), relu)[0]


def _score_cam(
    classifier: Classifier, image: Tensor, targets: Tensor, settings: Settings, relu: bool
) -> tuple[Tensor, int]:
    classes = classifier.classes
    if targets.ndim != 1 or not targets.numel() or not 0 <= int(targets.amin()) <= int(targets.amax()) < classes:
        raise ExplanationError(f"targets: expected classes (T,) of 0..{classes - 1}, found {targets.tolist()}")
    maps = feature_maps(classifier, image[None], settings.layer)
    activations = maps.activations[0]
    masks, place = _distinct(rescale(activations))
    plan = replace(FLOAT32, inner_batch=plan_for(image.device).inner_batch)
    network = fast_network(classifier, plan, classifier.normalise(image[None]))
    rows = []
    with torch.no_grad():
        for part in masks.split(network.plan.inner_batch):
            enlarged = interpolate(part[:, None], image.shape[1:], mode="bilinear", align_corners=False)
            rows.append(network.logits(classifier.normalise(image * enlarged)))
    scores, whole = (all_scores(classifier, z, settings.confidence) for z in (torch.cat(rows), maps.logits))
    gains = (scores - whole)[:, targets.to(scores.device)][place]  # (K, T)
    sums = torch.einsum("kt,khw->thw", gains.softmax(0), activations)
    return sums.relu() if relu else sums, 1 + len(masks)


def _distinct(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Masks `(K, h, w)` without the repeated ones that are all zero, and where each unit finds its own."""
    lives = masks.flatten(1).any(1)
    if bool(lives.all()):
        return masks, torch.arange(len(masks), device=masks.device)
    place = torch.where(lives, lives.cumsum(0) - 1, int(lives.sum()))
    return torch.cat([masks[lives], torch.zeros_like(masks[:1])]), place
