"""Layer-wise relevance propagation: named composites, per-layer parameters, and what each conserves.

Bach et al. 2015, PLoS ONE 10(7); rules and composites as in zennit 0.5.1 (Anders et al. 2021, arXiv 2106.13200) and
Montavon et al. 2019. `relevance` is a function of tensors; the explainer `lrp` stands behind the common contract.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
import zennit.core
from torch import Tensor, nn
from zennit.rules import Pass
from zennit.types import Activation, AvgPool, BatchNorm, Convolution, Linear

from xai_lib import explanation
from xai_lib.classifiers import Classifier
from xai_lib.errors import nearest
from xai_lib.explanation import Explainer, ExplanationError, left_as_it_was
from xai_lib.relevance import (
    AlphaBeta,
    Bias,
    Dense,
    Epsilon,
    Flat,
    Gamma,
    Ledger,
    Operation,
    Recording,
    RelevanceError,
    Rule,
    Value,
    ZBox,
)

Box = tuple[Value, Value]
Grouping = Literal["all", "resolution", "layer"]
"""Which layers share a parameter: all of them; consecutive ones of the same output size, dense layers (or a last convolution
that gives the logits) being a group of their own, as EVO-LRP is read here; each its own."""


class Composite(zennit.core.Composite):
    """Which rule each layer follows.

    `dense`: rule of fully connected layers; `first`: of the first layer; `last`: of the last. `values` replaces the rules'
    parameter, one a group of `groups`, from the input to the output. It is a composite of zennit, too, which may be
    registered to networks that are modules throughout; `relevance` below does more.
    """

    averages = False  #: max pooling: the winner takes all

    def __init__(
        self,
        name: str,
        convolution: Rule,
        dense: Rule | None = None,
        first: Rule | None = None,
        last: Rule | None = None,
        groups: Grouping = "all",
        values: Sequence[float] = (),
    ) -> None:
        super().__init__(module_map=self._of_module)
        self.name, self.convolution, self.dense = name, convolution, dense or convolution
        self.first, self.last, self.groups, self.values = first, last, groups, tuple(values)
        if groups not in get_args(Grouping):
            raise RelevanceError(f"groups: expected {', '.join(get_args(Grouping))}, found {groups!r}")

    def rule(self, operation: Operation, recording: Recording) -> Rule:
        """The rule of a layer, or of the pooling and sums behind it."""
        if operation.kind == "linear":
            if operation.index == 0 and self.first is not None:
                return self.first
            if operation.index == recording.weighted - 1 and self.last is not None:
                return self.last
        layer = recording.linear[max(operation.index, 0)].layer
        return self.dense if isinstance(layer, Dense) else self.convolution

    def _of_module(self, ctx: dict[str, Any], name: str, module: nn.Module) -> zennit.core.Hook | None:
        if isinstance(module, Convolution | Linear):
            if not ctx.get("seen") and self.first is not None:
                ctx["seen"] = True
                return self.first
            return self.dense if isinstance(module, Linear) else self.convolution
        if isinstance(module, Activation | BatchNorm):
            return Pass()  # a gradient would lose what spreads over inactive units
        return self.convolution.pooled() if isinstance(module, AvgPool) else None

    def __repr__(self) -> str:
        return f"Composite({self.name!r})"


def alpha_beta(
    alpha: float | Sequence[float] = 2.0,
    *,
    zbox: Box | None = None,
    bias: Bias = "keep",
    groups: Grouping = "all",
    stabiliser: float = 0.0,
) -> Composite:
    """LRP-alpha-beta in all layers, beta = alpha - 1; alpha = 1 is z+. A sequence: one a group of `groups`.

    `zbox`: bounds (low, high) of the pixels for z^B in the first layer. `bias`: see `xai_lib.relevance.rules`. With
    `"spread"` the pixels sum to the logit. With `"keep"` biases take their share, and what a unit of one sign gets is
    multiplied by alpha or -beta; with `"ignore"` likewise, and what meets a zero denominator is dropped: z+ loses 98 % of the
    logit on EfficientNet-Lite0, whose layers see inputs without ReLU. The table in the README has all networks.
    """
    values = _numbers("alpha_beta", alpha)
    return _uniform("alpha_beta", AlphaBeta(values[0], bias, stabiliser), values, np.ndim(alpha) == 0, zbox, groups)


def epsilon(
    epsilon: float | Sequence[float] = 1e-9,
    *,
    relative: bool = False,
    zbox: Box | None = None,
    bias: Bias = "keep",
    groups: Grouping = "all",
) -> Composite:
    """LRP-epsilon in all layers; 1e-9 stands for LRP-0. `relative`: in units of the root mean square of the layer's outputs.

    With `"keep"` pixels and biases sum to the logit but for what epsilon absorbs. `"spread"` is refused, see `Epsilon`.
    """
    values = _numbers("epsilon", epsilon)
    return _uniform("epsilon", Epsilon(values[0], bias, relative=relative), values, np.ndim(epsilon) == 0, zbox, groups)


def _numbers(name: str, value: float | Sequence[float]) -> list[float]:
    try:
        found = [float(v) for v in np.atleast_1d(np.asarray(value, dtype=np.float64))]
    except (TypeError, ValueError):
        found = []
    if not found:
        raise RelevanceError(f"{name}: expected a number or one a group of layers, found {value!r}")
    return found


def _uniform(name: str, rule: Rule, values: list[float], single: bool, zbox: Box | None, groups: Grouping) -> Composite:
    for value in values:
        type(rule)(value)  # the rule's own check
    return Composite(name, rule, first=None if zbox is None else box_rule(zbox), groups=groups, values=() if single else values)


def box_rule(zbox: Box) -> ZBox:
    """The rule z^B of a pair of bounds."""
    try:
        low, high = zbox
    except (TypeError, ValueError):
        raise RelevanceError(f"zbox: expected a pair of bounds (low, high), found {zbox!r}") from None
    return ZBox(low, high)


def epsilon_gamma_box(
    low: Value, high: Value, *, epsilon: float = 1e-6, gamma: float = 0.25, bias: Bias = "keep"
) -> Composite:
    """z^B in the first layer, gamma in convolutions, epsilon in dense layers (zennit's EpsilonGammaBox)."""
    return Composite("epsilon_gamma_box", Gamma(gamma, bias), _dense(epsilon, bias), ZBox(low, high))


def epsilon_plus(*, epsilon: float = 1e-6, bias: Bias = "keep") -> Composite:
    """z+ in convolutions, epsilon in dense layers (zennit's EpsilonPlus)."""
    return Composite("epsilon_plus", AlphaBeta(1.0, bias), _dense(epsilon, bias))


def epsilon_plus_flat(*, epsilon: float = 1e-6, bias: Bias = "keep") -> Composite:
    """Equal shares in the first layer, z+ in convolutions, epsilon in dense layers (zennit's EpsilonPlusFlat)."""
    return Composite("epsilon_plus_flat", AlphaBeta(1.0, bias), _dense(epsilon, bias), Flat())


def epsilon_alpha2_beta1(*, epsilon: float = 1e-6, bias: Bias = "keep") -> Composite:
    """alpha = 2, beta = 1 in convolutions, epsilon in dense layers (zennit's EpsilonAlpha2Beta1)."""
    return Composite("epsilon_alpha2_beta1", AlphaBeta(2.0, bias), _dense(epsilon, bias))


def epsilon_alpha2_beta1_flat(*, epsilon: float = 1e-6, bias: Bias = "keep") -> Composite:
    """Equal shares in the first layer, then as `epsilon_alpha2_beta1` (zennit's EpsilonAlpha2Beta1Flat)."""
    return Composite("epsilon_alpha2_beta1_flat", AlphaBeta(2.0, bias), _dense(epsilon, bias), Flat())


def _dense(epsilon: float, bias: Bias) -> Epsilon:
    """Dense layers of the named composites: with `"spread"` their own bias is kept, since epsilon cannot spread it."""
    return Epsilon(epsilon, "keep" if bias == "spread" else bias)


#: Composites by name; those of zennit by zennit's names in our spelling.
COMPOSITES: dict[str, Callable[..., Composite]] = {
    "alpha_beta": alpha_beta, "epsilon": epsilon, "epsilon_plus": epsilon_plus, "epsilon_plus_flat": epsilon_plus_flat,
    "epsilon_alpha2_beta1": epsilon_alpha2_beta1, "epsilon_alpha2_beta1_flat": epsilon_alpha2_beta1_flat,
    "epsilon_gamma_box": epsilon_gamma_box,
}  # fmt: skip


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
        `(1, C, 1, 1)` each, one value a channel, in the network's dtype.
    """
    return classifier.normalise(torch.zeros_like(classifier.mean)), classifier.normalise(torch.ones_like(classifier.mean))


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


def explained(
    classifier: Classifier, image: Tensor, target: int, composite: Composite
) -> tuple[Tensor, dict[str, Any], Recording, Ledger]:
    """The map `(H, W)` of an image `(C, H, W)`, channels summed, what became of the logit, the pass, and the account."""
    ledger, recording = Ledger(), Recording(classifier.core, classifier.normalise(image[None]))
    start = start_of(recording, torch.tensor([target]))
    found = propagate(recording, composite, start[None], ledger=ledger)[0, 0].sum(0)
    details = {
        "logit": float(recording.logits[0, target]), "pixels": float(found.sum(dtype=torch.float64)),
        "biases": float(torch.as_tensor(ledger.biases).sum()), "calls": 2,
    }  # fmt: skip
    return found, details, recording, ledger
