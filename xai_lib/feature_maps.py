"""The feature maps of one layer and the gradients of class scores by them: one forward pass, and a short way back.

Everything before the layer runs without a graph, so that the gradients cost only what lies behind the layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from xai_lib.classifiers import Classifier
from xai_lib.explanation import ExplanationError, left_as_it_was

Score = Literal["probability", "logit"]


@dataclass(frozen=True)
class FeatureMaps:
    """What one forward pass of `N` images leaves at a layer of `K` units.

    `activations`: `(N, K, h, w)`; `logits`: `(N, classes)`; `gradients`: `(T, N, K, h, w)`, of the scores of each
    image's `T` target classes, empty where none was asked for; `targets`: `(N, T)`.
    """

    activations: Tensor
    logits: Tensor
    gradients: Tensor
    targets: Tensor

    @property
    def probabilities(self) -> Tensor:
        """Softmax of the logits, `(N, classes)`."""
        return self.logits.softmax(1)


def feature_maps(
    classifier: Classifier, images: Tensor, layer: str = "", targets: Tensor | int | None = None, score: Score = "probability"
) -> FeatureMaps:
    """Feature maps of `images` `(N, 3, H, W)` in 0..1 at a layer, and gradients of the classes in `targets`.

    `layer`: dotted name, "" for the classifier's `feature_layer`. `targets`: classes `(N, T)`, where -1 is the most
    probable class not named before it; an int k for the k most probable ones; None for no gradients. `score`: what is
    differentiated, the softmax probability (as ADVISE's authors do) or the logit (as Grad-CAM's authors do). Raises
    `ExplanationError` for a layer that does not give maps `(N, K, h, w)` above 1x1 exactly once a forward pass,
    and for one that the scores do not depend on. The network is left as it was.
    """
    if score not in get_args(Score):
        raise ExplanationError(f"score: probability or logit; found {score!r}")
    name = layer or classifier.feature_layer
    seen: list[Tensor] = []

    def hold(_module: Any, _inputs: Any, output: Any) -> Any:
        if not isinstance(output, Tensor) or output.ndim != 4 or len(output) != len(images) or output.shape[2:].numel() < 2:
            found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ExplanationError(
                f"{classifier.name}: layer {name!r} gives {found}, not maps (N, K, h, w) above 1x1; name a convolutional layer"
            )
        seen.append(output.detach().requires_grad_())
        return seen[-1].clone()  # what follows may write into it

    with left_as_it_was(classifier), torch.enable_grad():
        classifier.requires_grad_(False)
        handle = classifier.layer(name).register_forward_hook(hold)
        try:
            logits = classifier(images.detach())
        finally:
            handle.remove()
        if len(seen) != 1:
            raise ExplanationError(f"{classifier.name}: layer {name!r} ran {len(seen)} times in one forward pass, not once")
        values = logits.softmax(1) if score == "probability" else logits
        wanted = _classes(logits, targets)
        if wanted.numel() and not values.requires_grad:
            raise ExplanationError(f"{classifier.name}: the scores do not depend on layer {name!r}, or not differentiably")
        chosen = values.gather(1, wanted).sum(0)
        gradients = [torch.autograd.grad(one, seen[0], retain_graph=True)[0] for one in chosen]
    maps = seen[0].detach()
    return FeatureMaps(maps, logits.detach(), torch.stack(gradients) if gradients else maps.new_empty(0, *maps.shape), wanted)


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
