"""Composites: which rule of LRP each layer of a network follows.

Rules and composites as in zennit 0.5.1 (Anders et al. 2021, arXiv 2106.13200) and Montavon et al. 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import zennit.core
from torch import nn
from zennit.rules import Pass
from zennit.types import Activation, AvgPool, BatchNorm, Convolution, Linear

from xai_lib.relevance import (
    AlphaBeta,
    Bias,
    Dense,
    Epsilon,
    Flat,
    Gamma,
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
