"""Layer-wise relevance propagation: named composites, per-layer parameters, and what each conserves.

Bach et al. 2015, PLoS ONE 10(7); rules and composites as in zennit 0.5.1 (Anders et al. 2021, arXiv 2106.13200) and
Montavon et al. 2019. `relevance` is a function of tensors; the explainer `lrp` stands behind the common contract.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import zennit.core
from torch import Tensor, nn

from xai_lib import explanation
from xai_lib.classifiers import Classifier
from xai_lib.errors import nearest
from xai_lib.explainers.composites import (
    COMPOSITES,
    Box,
    Composite,
    Grouping,
    alpha_beta,
    box_rule,
    epsilon,
    epsilon_alpha2_beta1,
    epsilon_alpha2_beta1_flat,
    epsilon_gamma_box,
    epsilon_plus,
    epsilon_plus_flat,
)
from xai_lib.explanation import Explainer, ExplanationError, left_as_it_was
from xai_lib.relevance import (
    Bias,
    Dense,
    Ledger,
    Operation,
    Recording,
    RelevanceError,
    UnsupportedNetwork,
)

# ---------------------------------------------------------------------------------------------------------------------
# Relevance of any network


def relevance(
    network: nn.Module, inputs: Tensor, targets: int | Sequence[int] | Tensor, composite: zennit.core.Composite
) -> Tensor:
    """Relevance of each input `(N, C, H, W)` for the logits of `targets`, channels not summed, in the inputs' dtype.

    `inputs`: normalised as the network wants them. `targets`: one class for all or one an image. The start is the logit.
    The network stays as it is; with float64 inputs all is computed in float64, whatever its own dtype. Raises
    `UnsupportedNetwork` for operations without a rule. A composite of zennit itself (not ours) runs as it comes, by
    zennit's own hooks, without any of the above.
    """
    wanted = _targets(targets, inputs)
    if not isinstance(composite, Composite):
        return _by_zennit(network, inputs, wanted, composite)
    recording = Recording(network, inputs)
    return propagate(recording, composite, start_of(recording, wanted)[None])[0]


def propagate(
    recording: Recording, composite: Composite, start: Tensor, values: Tensor | None = None, ledger: Ledger | None = None
) -> Tensor:
    """Relevance `(P, N, C, H, W)` of a recorded pass for P candidates, from that of the logits, `start` `(P, N, classes)`.

    `values` `(P, G)`: a parameter a candidate and group, in place of the composite's own.
    """
    if start.ndim != 3 or start.shape[1:] != recording.logits.shape:
        raise RelevanceError(
            f"start: expected (P, N, classes) = (P, {', '.join(map(str, recording.logits.shape))}), found {tuple(start.shape)}"
        )
    groups = groups_of(recording, composite.groups)
    if values is None and composite.values:
        values = torch.tensor([composite.values], dtype=recording.inputs.dtype).expand(len(start), -1)
    if values is not None:
        if values.shape != (len(start), max(groups) + 1):
            raise RelevanceError(
                f"{composite.name}: {type(recording.network).__name__} has {max(groups) + 1} groups of layers "
                f"(groups={composite.groups!r}); found parameters {tuple(values.shape)} for {len(start)} candidates"
            )
        values = values.to(recording.inputs)
        for rule in {composite.convolution, composite.dense}:
            type(rule)(values)  # the rule's own check
    return recording.relevance(start, composite, values, groups, ledger)


def start_of(recording: Recording, targets: Tensor, unit: bool = False) -> Tensor:
    """The logit of the target (1 with `unit`), all other classes 0: `(N, classes)`."""
    classes = recording.logits.shape[1]
    if not 0 <= int(targets.min()) <= int(targets.max()) < classes:
        raise RelevanceError(f"targets: expected classes of 0..{classes - 1}, found {targets.tolist()}")
    one_hot = torch.nn.functional.one_hot(targets.to(recording.logits.device), classes).to(recording.logits)
    return one_hot if unit else one_hot * recording.logits


def groups_of(recording: Recording, groups: Grouping) -> list[int]:
    """The group of each convolution and dense layer, from the input."""
    layers = recording.linear
    if groups == "all":
        return [0] * len(layers)
    if groups == "layer":
        return [*range(len(layers))]
    head = {i for i, o in enumerate(layers) if isinstance(o.layer, Dense) and o.output.ndim == 2} or {len(layers) - 1}
    sizes = ["head" if i in head else _resolution(o) for i, o in enumerate(layers)]
    changes = [0, *(int(a != b) for a, b in itertools.pairwise(sizes))]
    return np.cumsum(changes).tolist()


def _resolution(operation: Operation) -> tuple[int, ...]:
    """The size of a layer's output without images and channels; dense layers have their channels last."""
    shape = operation.output.shape
    return tuple(shape[1:-1] if isinstance(operation.layer, Dense) else shape[2:])


def bounds(classifier: Classifier) -> tuple[Tensor, Tensor]:
    """The least and the largest value that a pixel of 0..1 has after normalisation, for `zbox`.

    Returns
    -------
    low, high : Tensor
        `(1, C, 1, 1)` each, one value a channel, in the dtype of `inputs_of`.
    """
    ends = torch.zeros_like(classifier.mean), torch.ones_like(classifier.mean)
    return inputs_of(classifier, ends[0]), inputs_of(classifier, ends[1])


def _targets(targets: int | Sequence[int] | Tensor, inputs: Tensor) -> Tensor:
    if not isinstance(inputs, Tensor) or not len(inputs):
        found = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise RelevanceError(f"inputs: expected a tensor (N, C, H, W) of one image or more, found {found}")
    try:
        wanted = torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError):
        wanted = torch.zeros(())  # of no use, so that one message serves all
    if wanted.is_floating_point() or wanted.ndim > 1 or (wanted.ndim == 1 and len(wanted) != len(inputs)):
        raise RelevanceError(f"targets: expected a class or one of the {len(inputs)} images each, found {targets!r}")
    return wanted.long().to(inputs.device).expand(len(inputs))


def _by_zennit(network: nn.Module, inputs: Tensor, targets: Tensor, composite: zennit.core.Composite) -> Tensor:
    if not isinstance(composite, zennit.core.Composite):
        raise RelevanceError(f"composite: expected one of {', '.join(COMPOSITES)} (functions here), found {composite!r}")
    x = inputs.detach().clone().requires_grad_()
    with left_as_it_was(network), torch.enable_grad():
        try:
            with composite.context(network) as prepared:
                logits = prepared(x)
                start = torch.zeros_like(logits).scatter(1, targets[:, None], logits.detach().gather(1, targets[:, None]))
                (found,) = torch.autograd.grad(logits, x, start)
        finally:
            composite.remove()
    return found


# ---------------------------------------------------------------------------------------------------------------------
# What is conserved


class Conservation(NamedTuple):
    """Where the relevance of N logits went, `(N,)` each; `error` is (pixels + biases - logit) / |logit|.

    `biases` is what biases keep, and other constants that are added or put beside: position embeddings, class tokens.
    """

    logit: Tensor
    pixels: Tensor
    biases: Tensor
    error: Tensor


class Equivalence(NamedTuple):
    """How far two networks differ: the largest difference of their logits, over the largest logit, and of their maps, over
    the map's largest value; the latter `(N,)`, one an image."""

    logits: float
    maps: Tensor


def check_conservation(
    network: nn.Module,
    composite: zennit.core.Composite,
    inputs: Tensor,
    targets: int | Sequence[int] | Tensor | None = None,
) -> Conservation:
    """How much of the logits of `targets` arrives at the pixels, and how much the biases keep.

    Parameters
    ----------
    network : nn.Module
        Gives logits `(N, classes)`; it stays as it is.
    composite : Composite
        The rules. For a composite of zennit itself biases count as 0.
    inputs : Tensor
        `(N, C, H, W)`, normalised as the network wants them. Use float64: in float32 rounding hides what a rule does.
    targets : int, sequence or Tensor, optional
        One class for all images or one an image; the largest logit by default.

    Returns
    -------
    Conservation
        `logit`, `pixels`, `biases` and the relative `error` of their sum, `(N,)` each.
    """
    if not isinstance(composite, Composite):
        with torch.no_grad(), left_as_it_was(network):
            logits = network(inputs)
        wanted = logits.argmax(1) if targets is None else _targets(targets, inputs)
        found, biases = _by_zennit(network, inputs, wanted, composite)[None], torch.zeros(1, len(inputs)).to(inputs)
    else:
        recording, ledger = Recording(network, inputs), Ledger()
        logits = recording.logits
        wanted = logits.argmax(1) if targets is None else _targets(targets, inputs)
        found = propagate(recording, composite, start_of(recording, wanted)[None], ledger=ledger)
        biases = torch.as_tensor(ledger.biases).to(inputs).expand(1, len(inputs))
    logit = logits.gather(1, wanted[:, None])[:, 0]
    pixels = found[0].flatten(1).sum(1)
    return Conservation(logit, pixels, biases[0], (pixels + biases[0] - logit) / logit.abs())


def check_equivalence(
    network: nn.Module,
    twin: nn.Module,
    composite: Composite,
    inputs: Tensor,
    targets: int | Sequence[int] | Tensor | None = None,
) -> Equivalence:
    """Compare the relevance of two networks that are the same function, written in different ways.

    Two networks with the same logits should have the same relevance, whether an activation is a module, a function of torch
    or written out, whether attention is called or multiplied by hand. Where the second number is not small while the first
    one is, the rules see the form of one of the networks, not its function.

    Parameters
    ----------
    network, twin : nn.Module
        Both take `inputs` and give logits `(N, classes)`; they stay as they are.
    composite : Composite
        The rules; see `COMPOSITES`.
    inputs : Tensor
        `(N, C, H, W)`, normalised as the networks want them; float64, so that rounding hides nothing.
    targets : int, sequence or Tensor, optional
        One class for all images or one an image; the largest logit of `network` by default.

    Returns
    -------
    Equivalence
        `logits`, the largest difference of the logits over their largest size, and `maps`, for each image the largest
        difference of the two maps over the largest value of the first (infinity where the first alone is 0).

    Raises
    ------
    UnsupportedNetwork
        If one of them has an operation without a rule.

    Examples
    --------
    >>> from torch import nn
    >>> layers = [nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(144, 5)]
    >>> one = nn.Sequential(*layers).double()
    >>> found = check_equivalence(one, one, epsilon_plus(), torch.rand(2, 3, 8, 8).double())
    >>> found.logits, found.maps.tolist()
    (0.0, [0.0, 0.0])
    """
    first, second = Recording(network, inputs), Recording(twin, inputs)
    if first.logits.shape != second.logits.shape:
        raise RelevanceError(
            f"check_equivalence: the networks have logits {tuple(first.logits.shape)} and {tuple(second.logits.shape)}; "
            "expected two networks with the same classes"
        )
    wanted = first.logits.argmax(1) if targets is None else _targets(targets, inputs)
    maps = [propagate(r, composite, start_of(r, wanted)[None])[0].flatten(1) for r in (first, second)]
    size, gap = maps[0].abs().amax(1), (maps[0] - maps[1]).abs().amax(1)
    logits = (first.logits - second.logits).abs().max() / first.logits.abs().max().clamp(min=1e-300)
    return Equivalence(float(logits), torch.where(gap == 0, 0, gap / size))


def convergence(
    network: nn.Module, composite: Composite, inputs: Tensor, *, vectors: int = 8, seed: int = 0
) -> tuple[float, float]:
    """Cosine similarity convergence (Sixt, Granz, Landgraf 2020, arXiv 1912.09818) at the pixels, from two kinds of start.

    First number: random relevance (normal, `vectors` of them) at the logits; second: one logit each of as many random
    classes. Each is the median over pairs and images of |cosine| of the pixels' relevance. Near 1, the map is the same
    whatever the last layers say: the rule ignores them.
    """
    recording = Recording(network, inputs)
    rng = torch.Generator().manual_seed(seed)
    shape = (vectors, *recording.logits.shape)
    noise = torch.randn(shape, generator=rng, dtype=torch.float64).to(recording.logits)
    classes = torch.randperm(shape[-1], generator=rng)[:vectors]
    single = torch.nn.functional.one_hot(classes, shape[-1]).to(recording.logits)[:, None].expand(-1, shape[1], -1)
    medians = []
    for start in (noise, single):
        maps = propagate(recording, composite, start).double().flatten(2)
        unit = maps / maps.norm(dim=2, keepdim=True).clamp(min=1e-300)
        cosines = torch.einsum("pnd,qnd->npq", unit, unit).abs()
        above = torch.ones(len(start), len(start)).triu(1).bool()
        medians.append(float(cosines[:, above].median()))
    return medians[0], medians[1]


# ---------------------------------------------------------------------------------------------------------------------
# The explainer


@dataclass(frozen=True)
class Settings(explanation.Settings):
    """Which composite, with which parameters.

    Beyond layers with weights the same holds for all composites, chosen because it conserves: products of a signal and a
    gate (squeeze-and-excitation, SiLU written out) give all to the signal (Arras et al. 2019), of two signals half to each
    (Achtibat et al. 2024, AttnLRP); attention weights count as constants, so queries and keys get nothing (CP-LRP, Ali et
    al. 2022); the deviation of a layer norm, and of others of its kind, counts as a constant, its mean is a branch that is
    subtracted; activations pass relevance as it is; constants that are added keep their part as biases do.
    """

    composite: str = "epsilon_plus"  #: a name of `COMPOSITES` (default: the usual choice for classifiers, zennit's manual)
    value: float | None = None  #: alpha of `alpha_beta`, epsilon of the others; None for the composite's own
    bias: Bias = "keep"  #: see `xai_lib.relevance.rules`; "keep" as in zennit
    pixels: bool = True  #: z^B with the data set's bounds in the first layer of `alpha_beta` and `epsilon`

    def __post_init__(self) -> None:
        if self.composite not in COMPOSITES:
            raise ExplanationError(f"no composite is called {self.composite!r}; {nearest(self.composite, list(COMPOSITES))}")

    def build(self, classifier: Classifier) -> Composite:
        """The composite for a classifier, whose normalisation gives the bounds of the pixels."""
        box = bounds(classifier)
        changes: dict[str, Any] = {"bias": self.bias}
        if self.value is not None:
            changes["alpha" if self.composite == "alpha_beta" else "epsilon"] = self.value
        if self.composite == "epsilon_gamma_box":
            return epsilon_gamma_box(*box, **changes)
        if self.composite in ("alpha_beta", "epsilon") and self.pixels:
            changes["zbox"] = box
        return COMPOSITES[self.composite](**changes)


class Lrp(Explainer):
    """Relevance of each pixel by a composite of rules, summed over channels."""

    name = "lrp"
    title = "LRP: the logit handed back layer by layer"
    source = "Bach et al. 2015, PLoS ONE 10(7)"
    needs = "layers"
    cost = "2"
    signed = True
    settings_class = Settings

    def explain_image(
        self, classifier: Classifier, image: Tensor, target: int, settings: Settings, rng: np.random.Generator
    ) -> tuple[Tensor, int, dict[str, Any]]:
        found, details, _, _ = explained(classifier, image, target, settings.build(classifier))
        return found, 2, details


def inputs_of(classifier: Classifier, images: Tensor) -> Tensor:
    """Normalised images, in which the relevance of a classifier is computed; an error if it has no logits to begin at."""
    if classifier.squashed:
        raise UnsupportedNetwork(
            f"{classifier.name}: gives probabilities, and relevance begins at logits; give the network without its softmax or "
            "sigmoid"
        )
    return at_least_float32(classifier.normalise(images))


def at_least_float32(inputs: Tensor) -> Tensor:
    """Relevance of networks in half precision is computed in float32: quotients of small sums need the range."""
    return inputs.float() if inputs.dtype in (torch.float16, torch.bfloat16) else inputs


def explained(
    classifier: Classifier, image: Tensor, target: int, composite: Composite
) -> tuple[Tensor, dict[str, Any], Recording, Ledger]:
    """The map `(H, W)` of an image `(C, H, W)`, channels summed, what became of the logit, the pass, and the account."""
    ledger, recording = Ledger(), Recording(classifier.core, inputs_of(classifier, image[None]))
    start = start_of(recording, torch.tensor([target]))
    found = propagate(recording, composite, start[None], ledger=ledger)[0, 0].sum(0)
    details = {
        "logit": float(recording.logits[0, target]), "pixels": float(found.sum(dtype=torch.float64)),
        "biases": float(torch.as_tensor(ledger.biases).sum()), "calls": 2,
    }  # fmt: skip
    return found, details, recording, ledger


__all__ = [
    "COMPOSITES", "Box", "Composite", "Conservation", "Equivalence", "Grouping", "Lrp", "Settings", "alpha_beta", "bounds",
    "box_rule", "check_conservation", "check_equivalence", "convergence", "epsilon", "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat", "epsilon_gamma_box", "epsilon_plus", "epsilon_plus_flat", "explained", "groups_of",
    "inputs_of", "propagate", "relevance", "start_of",
]  # fmt: skip
