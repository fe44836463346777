"""The feature maps of one layer and the gradients of class scores by them: one forward pass, and a short way back.

Everything before the layer runs without a graph, so that the gradients cost only what lies behind the layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from xai_lib.classifiers import Classifier, left_as_it_was
from xai_lib.classifiers.layers import find, run
from xai_lib.explanation import ExplanationError

Score = Literal["log_odds", "probability", "logit"]


@dataclass(frozen=True)
class FeatureMaps:
    """What one forward pass of `N` images leaves at a layer of `K` units.

    `activations`: `(N, K, h, w)`; `logits`: `(N, classes)`; `gradients`: `(T, N, K, h, w)`, of the scores of each
    image's `T` target classes, empty where none was asked for; `targets`: `(N, T)`; `probabilities`: `(N, classes)`.
    """

    activations: Tensor
    logits: Tensor
    gradients: Tensor
    targets: Tensor
    probabilities: Tensor


def feature_maps(
    classifier: Classifier, images: Tensor, layer: str = "", targets: Tensor | int | None = None, score: Score = "log_odds"
) -> FeatureMaps:
    """Feature maps of a layer, and gradients of class scores by them.

    Parameters
    ----------
    classifier : Classifier
    images : Tensor
        `(N, C, H, W)` in 0..1.
    layer : str
        A name as `classifiers.layers.find` takes it; "" for the classifier's `feature_layer`. Outputs
        that have channels last or tokens are brought to `(N, K, h, w)`.
    targets : Tensor or int, optional
        Classes `(N, T)`, where -1 is the most probable class not named before it; an int k for the k
        most probable ones; None for no gradients.
    score : {"log_odds", "probability", "logit"}
        What is differentiated. "log_odds": z_t - logsumexp(z of the others), whose gradient is that of
        the probability divided by p (1 - p), so that it has its direction and stays where p rounds to 0
        or 1. "probability": the softmax probability, as ADVISE's authors do; where it rounds to 1 its
        gradient is rounding noise or 0. "logit": as Grad-CAM's authors do.

    Returns
    -------
    FeatureMaps
        float32, or float64 for a double network.

    Raises
    ------
    ClassifierError
        For a layer that gives no maps above 1x1 that follow the image.
    ExplanationError
        For one that the scores do not depend on differentiably, and for gradients that are not finite.
    """
    check_score(score)
    place = find(classifier, layer or classifier.given_layer or "", (images.shape[2], images.shape[3]))
    seen: list[Tensor] = []

    def cut(output: Tensor) -> Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[0].clone()  # what follows may write into it

    with left_as_it_was(classifier), torch.inference_mode(False), torch.enable_grad():
        classifier.requires_grad_(False)
        try:
            logits = run(classifier, images.detach(), place.site, cut)
        except RuntimeError as error:
            if "nference tensor" not in str(error):
                raise
            raise ExplanationError(f"{classifier.name}: {NO_GRADIENTS}") from error
        wanted = _classes(logits, targets)
        scores = score_of(classifier, logits, wanted, score)
        gradients: list[Tensor | None] = [None] * wanted.shape[1]
        if wanted.numel() and scores.requires_grad:
            gradients = [torch.autograd.grad(one, seen[0], retain_graph=True, allow_unused=True)[0] for one in scores.sum(0)]
        if any(g is None for g in gradients):
            raise ExplanationError(
                f"{classifier.name}: the scores do not depend on layer {place.name!r}, or not differentiably "
                "(a quantised layer, no_grad or detach behind it); name another with layer="
            )
        slopes = [g for g in gradients if g is not None]
    _check_gradients(classifier, place.name, slopes)
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    maps, *slopes = (place.layout.maps(t.detach()).to(wide) for t in (seen[0], *slopes))
    stacked = torch.stack(slopes) if slopes else maps.new_empty(0, *maps.shape)
    return FeatureMaps(maps, logits.detach().to(wide), stacked, wanted, classifier.probabilities_of(logits.detach()))


NO_GRADIENTS = (
    "its weights were made under torch.inference_mode, which gives no gradients; load the network outside of it, or take a "
    "method that asks for probabilities alone, such as lime or elime"
)


def check_score(score: Score) -> None:
    """Raises `ExplanationError` for a word that is no score."""
    if score not in get_args(Score):
        raise ExplanationError(f"score: expected {', '.join(get_args(Score))}; found {score!r}")


def score_of(classifier: Classifier, logits: Tensor, targets: Tensor, score: Score) -> Tensor:
    """The score of the classes `targets` `(N, T)`, from logits `(N, classes)`: `(N, T)`, differentiable."""
    return all_scores(classifier, logits, score).gather(1, targets)


def all_scores(classifier: Classifier, logits: Tensor, score: Score) -> Tensor:
    """The score of every class `(N, classes)`, from logits `(N, classes)`, differentiable."""
    if score == "logit":
        return logits
    return classifier.log_odds(logits) if score == "log_odds" else classifier.probabilities_of(logits)


def _check_gradients(classifier: Classifier, layer: str, gradients: list[Tensor]) -> None:
    if any(not bool(torch.isfinite(g).all()) for g in gradients):
        raise ExplanationError(f"{classifier.name}: the score's gradient at layer {layer!r} is NaN or infinite there")
    if classifier.squashed and any(not bool(g.any()) for g in gradients):
        raise ExplanationError(
            f"{classifier.name}: a probability rounds to 0 or 1, and the gradient is lost in the network's own last layer; give "
            "the network without its softmax or sigmoid"
        )


def _classes(logits: Tensor, targets: Tensor | int | None) -> Tensor:
    if targets is None:
        return torch.empty(len(logits), 0, dtype=torch.long, device=logits.device)
    if isinstance(targets, int):
        return logits.detach().topk(targets, 1).indices
    if targets.ndim != 2 or len(targets) != len(logits):
        raise ExplanationError(f"targets: expected classes ({len(logits)}, T), found shape {tuple(targets.shape)}")
    if not -1 <= int(targets.amin()) <= int(targets.amax()) < logits.shape[1]:
        raise ExplanationError(f"targets: expected classes below {logits.shape[1]} (or -1), found {targets.tolist()}")
    wanted, left = targets.to(logits.device, torch.long, copy=True), logits.detach().clone()
    for column in wanted.unbind(1):  # views: what is written into them is written into `wanted`
        column.copy_(torch.where(column < 0, left.argmax(1), column))
        left.scatter_(1, column[:, None], -torch.inf)
    return wanted


def rescale(maps: Tensor) -> Tensor:
    """Each map `(..., h, w)` stretched to 0..1; a constant one becomes 0, as MATLAB's `rescale` does for ADVISE's authors."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny), 0)


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps `(..., h, w)` bicubic at `size`; it overshoots, below 0 and above 1, where the maps have edges."""
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    return interpolate(flat, size, mode="bicubic", align_corners=False).view(*maps.shape[:-2], *size)
