"""LRP by depth, the composite of paper 4: gamma in the first convolutions, epsilon in the others, LRP-0 in the classifier.

Kureshi, Selvamani, "XAI framework for complete understanding of image classification models", prints LRP-0 alone. The rules are
those of its authors' program (github.com/faizahkureshi232/DoctorLRP), which follows Montavon et al. 2019, "Layer-wise relevance
propagation: an overview", and its tutorial. On VGG16: gamma up to conv3_3, epsilon up to conv5_3, 0 in the dense layers;
elsewhere the same shares of the depth (our choice). What we change by default, each with a switch back: z^B at the pixels in
place of gamma, which is wrong for the negative values of normalised pixels; max pooling hands all to the winner in place of
equal weights. The root mean square of epsilon is that of the image, not of the batch.

`broadcast_start` is a fault of that program, kept to be shown: its maps are not class-specific.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from xai_lib import explanation
from xai_lib.classifiers import Classifier
from xai_lib.explainers import lrp
from xai_lib.explanation import Explainer, ExplanationError
from xai_lib.relevance import (
    Dense,
    Epsilon,
    Gamma,
    Layer,
    Operation,
    Pooling,
    Recording,
    RelevanceError,
    Rule,
    State,
    Value,
)
from xai_lib.relevance.rules import over

MaxPooling = Literal["winner", "average"]
Pixels = Literal["box", "gamma"]
LEAST = 1e-9  #: what the authors add to every denominator


class RmsEpsilon(Epsilon):
    """R_i = sum_j z_ij / (z_j + 1e-9 + epsilon rms(z)) R_j, the rms over the layer's outputs on each image.

    Without `sign_aware` epsilon is added to negative z_j, too, as the authors do: the denominator may cross 0 there. It takes
    pooling in the same way. A bias keeps its share.
    """

    def __init__(self, value: Value = 0.25, *, sign_aware: bool = True) -> None:
        super().__init__(value, "keep", relative=True)
        self.sign_aware = sign_aware

    @property
    def kind(self) -> tuple[Any, ...]:
        return *super().kind, self.sign_aware

    def prepare(self, layer: Layer, x: Tensor, z: Tensor) -> State:
        z = layer.forward(x) if isinstance(layer, Pooling) else z  # what max pooling gave is not its average
        state = super().prepare(layer, x, z)
        if not self.sign_aware:
            state["negative"] = torch.zeros_like(state["negative"])
        state["z"] = torch.where(state["negative"], state["z"] - LEAST, state["z"] + LEAST)
        return state

    def pooled(self) -> Rule:
        return self


class PlainGamma(Rule):
    """R_i = x_i sum_j (w_ij + gamma w_ij+) / (sum_i x_i (w_ij + gamma w_ij+) + b_j + gamma b_j+ + 1e-9) R_j.

    The authors' rule, for inputs >= 0; it looks at the signs of weights alone. With inputs >= 0 and z_j > 0 it is `Gamma`.
    """

    parameter = "gamma"

    def __init__(self, value: Value = 0.25) -> None:
        super().__init__(value, "keep", LEAST)

    def prepare(self, layer: Layer, x: Tensor, z: Tensor) -> State:
        return {"x": x, "z": z, "grown": layer.forward(x, 1) + layer.bias_like(z).clamp(min=0)}

    def _quotient(self, state: State, relevance: Tensor, value: Value) -> Tensor:
        z, gamma = state["z"], over(value, state["z"])
        return relevance / (z + gamma * state["grown"] + self.stabiliser)

    def redistribute(self, layer: Layer, state: State, relevance: Tensor, value: Value) -> Tensor:
        s, x = self._quotient(state, relevance, value), state["x"]
        return (layer.back(s, x) + over(value, x) * layer.back(s, x, 1)) * x

    def absorbed(self, layer: Layer, state: State, relevance: Tensor, value: Value) -> Tensor:
        s, b = self._quotient(state, relevance, value), layer.bias_like(state["z"])
        return (s * (b + over(value, state["z"]) * b.clamp(min=0))).flatten(2).sum(2)


class ByDepth(lrp.Composite):
    """Rules by depth: `share` of the convolutions before the classifier have `early`, the others `late`, dense layers `last`.

    A network whose last layer is a convolution has that as its classifier. Pooling has the rule of the convolution before it,
    but average pooling behind the last convolution is the classifier's. It needs a recorded pass: zennit cannot register it.
    """

    def __init__(self, early: Rule, late: Rule, last: Rule, first: Rule | None, share: float, averages: bool) -> None:
        super().__init__("by_depth", early, last, first)  # dense layers follow the third rule
        self.late, self.share, self.averages = late, share, averages

    def rule(self, operation: Operation, recording: Recording) -> Rule:
        linear = recording.linear
        place = max(operation.index, 0)
        body = [i for i, o in enumerate(linear[:-1]) if not isinstance(o.layer, Dense)]
        if operation.kind == "linear" and place == 0 and self.first is not None:
            return self.first
        if place not in body or (operation.kind == "pool" and place == body[-1]):
            return self.dense
        return self.convolution if body.index(place) < round(self.share * len(body)) else self.late

    def counts(self, recording: Recording) -> dict[str, int]:
        """How many convolutions and dense layers of a recorded pass have which rule."""
        words = {id(self.convolution): "gamma", id(self.late): "epsilon", id(self.dense): "0", id(self.first): "z^B"}
        found = [words[id(self.rule(o, recording))] for o in recording.linear]
        return {word: found.count(word) for word in words.values() if word in found}

    def _of_module(self, ctx: dict[str, Any], name: str, module: nn.Module) -> Any:
        raise RelevanceError("by_depth counts the layers of a recorded pass; use lrp.relevance in place of zennit's hooks")


def by_depth(
    zbox: lrp.Box | None = None,
    *,
    gamma: float = 0.25,
    epsilon: float = 0.25,
    share: float = 0.54,
    sign_aware: bool = True,
    max_pooling: MaxPooling = "winner",
) -> ByDepth:
    """The composite for `lrp.relevance`: LRP-gamma, LRP-epsilon (in units of the layer's rms) and LRP-0 by depth.

    `zbox`: bounds of the pixels for z^B in the first layer; None: gamma there, as the authors do for pixels in 0..1. `share`:
    of the convolutions that have gamma (0.54: 7 of VGG16's 13). `sign_aware`: see `RmsEpsilon`. `max_pooling`: all relevance to
    the winner (the gradient), or as if it were average pooling over the same windows, as the authors do.
    """
    early = PlainGamma(gamma) if zbox is None else Gamma(gamma)
    first = None if zbox is None else lrp.box_rule(zbox)
    return ByDepth(
        early, RmsEpsilon(epsilon, sign_aware=sign_aware), Epsilon(LEAST), first, share, max_pooling == "average"
    )


def broadcast_start(recording: Recording, targets: Tensor) -> Tensor:
    """The relevance `(N, classes)` that the classes get at the start in the authors' program, in place of `lrp.start_of`.

    Their mask of the wanted class has shape (1, K), the logits z of a 1x1 convolution (1, K, 1, 1). Mask / z broadcasts to
    (1, K, 1, K), and every class receives what is meant for one: the map says what all classes together see. Computed here as
    they do, one image at a time; ours keeps the shape of the logits.
    """
    rows = []
    for wanted, logits in zip(lrp.start_of(recording, targets), recording.logits, strict=True):
        mask, z = wanted[None], logits[None, :, None, None]
        rows.append((z * (mask / z)).sum((0, 2, 3)))
    return torch.stack(rows)


def with_broadcast_fault(
    network: nn.Module, inputs: Tensor, targets: int | Sequence[int] | Tensor, composite: lrp.Composite
) -> Tensor:
    """`lrp.relevance` with the authors' fault: see `broadcast_start`."""
    recording = Recording(network, inputs)
    return lrp.propagate(recording, composite, broadcast_start(recording, lrp._targets(targets, inputs))[None])[0]


# ---------------------------------------------------------------------------------------------------------------------
# The explainer


@dataclass(frozen=True)
class Settings(explanation.Settings):
    """The composite's parameters; defaults are those of paper 4's authors but for what the module's text says."""

    gamma: float = 0.25  #: authors' code
    epsilon: float = 0.25  #: authors' code, in units of the root mean square of the layer's outputs
    share: float = 0.54  #: of the convolutions that have gamma (our choice; VGG16: 7 of 13, the authors' modules 0 to 16)
    sign_aware: bool = True
    """Epsilon takes the sign of z. The authors ignore it. Where a ReLU follows every layer, as in VGG, that is the same: a unit
    with negative z has no relevance. Elsewhere denominators cross 0: on ResNet-18 the pixels got 190 000 times the logit."""
    max_pooling: MaxPooling = "winner"  #: "average": as the authors
    pixels: Pixels = "box"  #: z^B with the bounds of normalised 0..1; "gamma": as the authors

    def __post_init__(self) -> None:
        for name, words in (("max_pooling", get_args(MaxPooling)), ("pixels", get_args(Pixels))):
            if getattr(self, name) not in words:
                raise ExplanationError(f"{name}: expected {' or '.join(words)}, found {getattr(self, name)!r}")
        if not 0 <= self.share <= 1:
            raise ExplanationError(f"share: expected a number in 0..1, found {self.share!r}")

    def build(self, classifier: Classifier) -> ByDepth:
        """The composite for a classifier, whose normalisation gives the bounds of the pixels."""
        return by_depth(
            lrp.bounds(classifier) if self.pixels == "box" else None, gamma=self.gamma, epsilon=self.epsilon,
            share=self.share, sign_aware=self.sign_aware, max_pooling=self.max_pooling,
        )  # fmt: skip


class LrpComposite(Explainer):
    """Relevance of each pixel by the composite of paper 4, summed over channels.

    `details`: `logit`; `pixels`, what arrives; `biases`, what they keep (epsilon takes the rest); `rules`: how many layers have
    which rule; `layers`: from the output to the input each layer's name, the relevance of its outputs and what its biases keep.
    """

    name = "lrp_composite"
    title = "LRP by depth: gamma, epsilon, 0"
    source = "Kureshi, Selvamani, after Montavon et al. 2019"
    needs = "layers"
    cost = "2"
    signed = True
    settings_class = Settings

    def explain_image(
        self, classifier: Classifier, image: Tensor, target: int, settings: Settings, rng: np.random.Generator
    ) -> tuple[Tensor, int, dict[str, Any]]:
        composite = settings.build(classifier)
        found, details, recording, ledger = lrp.explained(classifier, image, target, composite)
        layers = [(name, float(all_), float(kept)) for name, all_, kept in ledger.layers]
        return found, 2, details | {"rules": composite.counts(recording), "layers": layers}


def counts(classifier: Classifier, images: Tensor, settings: Settings | None = None) -> dict[str, int]:
    """How many convolutions and dense layers of a classifier have which rule; `images` `(N, C, H, W)` in 0..1 for the pass."""
    recording = Recording(classifier.core, lrp.inputs_of(classifier, images))
    return (settings or Settings()).build(classifier).counts(recording)
