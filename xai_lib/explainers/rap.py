"""RAP, relative attributing propagation: relevant and irrelevant units told apart by their relative influence.

Nam, Gur, Choi, Wolf, Lee: "Relative Attributing Propagation", AAAI 2020, arXiv 1904.00605. Written from the rules that the
authors' program computes. For networks in which every convolution and dense layer but the first sees what a ReLU let
through, and whose last layer is dense: VGG, ResNet and their like.

A layer's inputs x_i >= 0 contribute x_i w_ij; p_ij and n_ij are the sizes of the positive and of the negative
contributions, P_j and N_j their sums over i; any quotient with a denominator of 0 is 0. Biases take no part after step 1.

1. Last layer, target t with logit S: R_i = |x_i w_it| S / sum_k |x_k w_kt|.
2. Dense layers: C_i = sum_j (p_ij R_j / P_j + n_ij R_j / (P_j + N_j)).
   Convolutions: the same for R_j > 0; for R_j < 0, C_i = sum_j n_ij R_j (1 / N_j + 1 / (P_j + N_j)). The authors' dense and
   convolution layers differ in this, and so do ours.
   Both: R_i = C_i - (sum C - sum R_j) / |A| for the units A where C_i is not 0, sums over the whole layer of one image. This
   shift makes units of less influence negative and keeps the sum.
3. First layer: z^B with the least and the largest value of the image itself. Batch norms are taken into the convolution
   before them; average pooling and sums of branches share in proportion; max pooling: the winner takes all.

The pixels sum to the logit. For a negative logit all signs are mirrored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xai_lib import explanation
from xai_lib.classifiers import Classifier
from xai_lib.explainers import lrp
from xai_lib.explanation import Explainer
from xai_lib.relevance import Dense, Layer, Recording, Rule, State, UnsupportedNetwork, Value
from xai_lib.relevance.rules import reciprocal


class Criterion(Rule):
    """Step 2, criterion relevance and uniform shift, of a dense layer (`of_dense`) or a convolution."""

    def __init__(self, of_dense: bool = False) -> None:
        super().__init__(0.0, "ignore")
        self.of_dense = of_dense

    @property
    def kind(self) -> tuple[Any, ...]:
        return *super().kind, self.of_dense

    def prepare(self, layer: Layer, x: Tensor, z: Tensor) -> State:
        _check_sign(layer, x)
        if self.of_dense:  # x @ w is known and stands for the negative weights: one pass over large ones less, here and below
            positive = layer.forward(x, 1)
            return {"x": x, "p": reciprocal(positive, 0), "both": reciprocal(2 * positive - z + layer.bias_like(z), 0)}
        positive, negative = layer.forward_by_sign(x)
        both = reciprocal(positive - negative, 0)
        return {"x": x, "p": reciprocal(positive, 0), "both": both, "n": reciprocal(negative, 0)}  # n: -1 / N_j

    def redistribute(self, layer: Layer, state: State, relevance: Tensor, value: Value) -> Tensor:
        x, below = state["x"], relevance * state["both"]
        if self.of_dense:
            criterion = layer.back((relevance * state["p"]).add_(below), x, 1).sub_(layer.back(below, x))
        else:
            negative = relevance.clamp(max=0)
            above, below = (relevance - negative).mul_(state["p"]), below.addcmul_(negative, state["n"], value=-1)
            criterion = layer.back_by_sign(above, below.neg_(), x)
        criterion.mul_(x)
        return shifted(criterion, relevance)


class Start(Rule):
    """Step 1, absolute influence on the logit, of the last layer; its relevance is one-hot."""

    def __init__(self) -> None:
        super().__init__(0.0, "ignore")

    def prepare(self, layer: Layer, x: Tensor, z: Tensor) -> State:
        _check_sign(layer, x)
        return {"x": x}

    def redistribute(self, layer: Layer, state: State, relevance: Tensor, value: Value) -> Tensor:
        assert isinstance(layer, Dense)
        contributions = layer.back(relevance, state["x"]) * state["x"]
        plain = contributions.sum(-1, keepdim=True)
        logit = plain if layer.bias is None else plain + (relevance @ layer.bias)[..., None]
        logit = torch.where(plain == 0, 0, logit)  # nothing to spread the bias over
        size = contributions.abs()
        return size * (logit * reciprocal(size.sum(-1, keepdim=True), 0))


def shifted(criterion: Tensor, relevance: Tensor) -> Tensor:
    """Step 2's uniform shift of `(P, N, ...)`, so that each image keeps the sum of `relevance`."""
    dims = tuple(range(2, criterion.ndim))
    alive = criterion != 0
    surplus = criterion.sum(dims) - relevance.sum(tuple(range(2, relevance.ndim)))
    each = surplus / alive.sum(dims).clamp(min=1)
    return criterion.sub_(alive * each.view(*each.shape, *[1] * len(dims)))


def _check_sign(layer: Layer, x: Tensor) -> None:
    if bool((x < 0).any()):
        raise UnsupportedNetwork(
            f"RAP: layer {layer.name!r} sees negative inputs ({float(x.min()):.3g}), for which RAP has no rule: it is made for "
            "layers behind a ReLU, as in VGG and ResNet; lrp.alpha_beta takes any"
        )


def relevance(
    network: nn.Module,
    inputs: Tensor,
    targets: int | Sequence[int] | Tensor,
    *,
    zbox: lrp.Box | None = None,
) -> Tensor:
    """RAP relevance of each input `(N, C, H, W)` for the logits of `targets`, channels not summed, in the inputs' dtype.

    `inputs`: normalised as the network wants them. `zbox`: bounds of the pixels, numbers or tensors that broadcast against the
    inputs; None for each image's own least and largest value, as the authors do. The network stays as it is. Raises
    `UnsupportedNetwork` where a layer sees negative inputs or the last layer is not dense.
    """
    return propagate(Recording(network, inputs), lrp._targets(targets, inputs), zbox)


def propagate(recording: Recording, targets: Tensor, zbox: lrp.Box | None = None) -> Tensor:
    """RAP relevance `(N, C, H, W)` of a recorded pass for the classes `targets` `(N,)`."""
    last = [o for o in recording.operations if o.live][-1]  # a branch beside the logits does not count
    if not (last.kind == "linear" and isinstance(last.layer, Dense)):
        name = recording.linear[-1].layer
        raise UnsupportedNetwork(
            f"RAP: {type(recording.network).__name__} does not end in a dense layer (its last layer is "
            f"{name.name if name else ''!r}); RAP begins there, as in VGG and ResNet"
        )
    if zbox is None:
        dims = tuple(range(1, recording.inputs.ndim))
        zbox = recording.inputs.amin(dims, keepdim=True), recording.inputs.amax(dims, keepdim=True)
    composite = lrp.Composite("rap", Criterion(), Criterion(of_dense=True), lrp.box_rule(zbox), Start())
    return lrp.propagate(recording, composite, lrp.start_of(recording, targets, unit=True)[None])[0]


@dataclass(frozen=True)
class Settings(explanation.Settings):
    """RAP has no parameters."""


class Rap(Explainer):
    """Relevance of each pixel by RAP, summed over channels; `details` has its sum and Σ|R| / |ΣR|, which grows with depth."""

    name = "rap"
    title = "RAP: units told apart by relative influence"
    source = "Nam et al. 2020, arXiv 1904.00605"
    needs = "layers"
    cost = "2"
    signed = True
    settings_class = Settings

    def explain_image(
        self, classifier: Classifier, image: Tensor, target: int, settings: Settings, rng: np.random.Generator
    ) -> tuple[Tensor, int, dict[str, Any]]:
        recording = Recording(classifier.core, lrp.inputs_of(classifier, image[None]))
        found = propagate(recording, torch.tensor([target], device=image.device))[0]
        total = float(found.sum(dtype=torch.float64))
        size = float(found.abs().sum(dtype=torch.float64))
        details = {
            "logit": float(recording.logits[0, target]), "pixels": total, "calls": 2,
            "spread": size / abs(total) if total else float("inf"),
        }  # fmt: skip
        return found.sum(0), 2, details
