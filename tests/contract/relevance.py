"""Relevance by hand in float64, layer by layer, on a twin that is a chain of modules; else by conservation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from tests.contract.oracles import Explained, Wrong, near, same, twin_of
from tests.contract.subject import Before, Part

Split = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]  #: module, inputs, outputs, relevance -> relevance of inputs


def apply(module: nn.Module, x: Tensor, sign: int = 0, bias: bool = False) -> Tensor:
    """A convolution or dense layer with all weights, or those of one sign, in place of its own."""
    assert isinstance(module, nn.Conv2d | nn.Linear)
    w = module.weight if sign == 0 else module.weight.clamp(min=0) if sign > 0 else module.weight.clamp(max=0)
    b = module.bias if bias else None
    if isinstance(module, nn.Linear):
        return linear(x, w, b)
    return conv2d(x, w, b, module.stride, module.padding, module.dilation, module.groups)  # type: ignore[arg-type]


def back(function: Part, x: Tensor, s: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    (found,) = torch.autograd.grad((function(x) * s).sum(), x)
    return found


def quotient(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b != 0, a / torch.where(b != 0, b, 1), 0)


def alpha_beta(alpha: float) -> Split:
    """Bach et al. 2015, eq. 60, biases taking their share; alpha = 1 is z+."""

    def rule(m: nn.Module, x: Tensor, _z: Tensor, r: Tensor) -> Tensor:
        up, un = x.clamp(min=0), x.clamp(max=0)
        zero = apply(m, torch.zeros_like(x), bias=True)
        plus = quotient(r, apply(m, up, 1) + apply(m, un, -1) + zero.clamp(min=0)) * alpha
        minus = quotient(r, apply(m, up, -1) + apply(m, un, 1) + zero.clamp(max=0)) * (alpha - 1)
        of = {(s, t): back(lambda v: apply(m, v, s), x, q) for s in (1, -1) for t, q in (("+", plus), ("-", minus))}  # noqa: B023
        return up * (of[1, "+"] - of[-1, "-"]) + un * (of[-1, "+"] - of[1, "-"])

    return rule


def epsilon(value: float, relative: bool = False) -> Split:
    """Bach et al. 2015, eq. 58; `relative`: in units of the root mean square of the outputs."""

    def rule(m: nn.Module, x: Tensor, z: Tensor, r: Tensor) -> Tensor:
        size = value * (float(z.square().mean().sqrt()) if relative else 1) + (1e-9 if relative else 0)
        return x * back(lambda v: apply(m, v), x, r / (z + torch.where(z < 0, -size, size)))

    return rule


def box(low: Tensor, high: Tensor) -> Split:
    """Montavon et al. 2017, z^B, for pixels within bounds `(1, C, 1, 1)`."""

    def rule(m: nn.Module, x: Tensor, _z: Tensor, r: Tensor) -> Tensor:
        above, below = x - low, x - high
        s = quotient(r, apply(m, above, 1) + apply(m, below, -1))
        return above * back(lambda v: apply(m, v, 1), x, s) + below * back(lambda v: apply(m, v, -1), x, s)

    return rule


def by_hand(e: Explained, rule: Callable[[int, int, nn.Module], Split]) -> Tensor:
    """Relevance of the pixels `(H, W)` from the target's logit; `rule(i, n, module)`: that of weighted layer i of n."""
    values = [e.inputs]
    with torch.no_grad():
        for module in e.subject.chain:
            values.append(module(values[-1]))
    r = torch.zeros_like(values[-1])
    r[0, e.target] = values[-1][0, e.target]
    weighted = [m for m in e.subject.chain if isinstance(m, nn.Conv2d | nn.Linear)]
    place = len(weighted)
    for module, x, z in reversed([*zip(e.subject.chain, values, values[1:], strict=False)]):
        if isinstance(module, nn.Conv2d | nn.Linear):
            place -= 1
            r = rule(place, len(weighted), module)(module, x, z, r)
        elif isinstance(module, nn.AvgPool2d | nn.AdaptiveAvgPool2d | Before):
            r = x * back(module, x, quotient(r, z))  # in proportion
        elif not isinstance(module, nn.ReLU | nn.Dropout):
            r = back(module, x, r)  # flattening, the winner of max pooling
    return r[0].sum(0)


def lrp(e: Explained) -> None:
    """By hand where the twin is a chain; else what arrives and what biases keep sum to the logit."""
    with torch.no_grad():
        logit = float(twin_of(e.subject)(e.inputs)[0, e.target])
    if e.subject.chain:
        rules = {"lrp": _epsilon_plus, "lrp_composite": _by_depth, "evo_lrp": _evolved}
        same(e.map, by_hand(e, rules[e.method](e)), "relevance", 2 * e.tolerance)
    elif e.method == "evo_lrp":
        _conserves(e)
    if e.method in ("lrp", "lrp_composite"):
        near(e.details["logit"], logit, "logit", e.tolerance)
        near(e.details["pixels"], float(e.map.sum()), "sum of the map", e.tolerance)
    if e.method == "lrp" or (e.method == "lrp_composite" and not e.subject.chain):
        kept = e.details["biases"]
        size = abs(logit) + 0.01 * float(e.map.abs().sum())
        if abs(float(e.map.sum()) + kept - logit) > 2 * e.tolerance * size:
            raise Wrong(f"pixels {float(e.map.sum()):.5g} and biases {kept:.5g} do not sum to the logit {logit:.5g}")
        if float(e.map.std()) == 0:
            raise Wrong("a constant map")


def _conserves(e: Explained) -> None:
    """The same rule with the parameter that was found conserves in float64, and gives the same map."""
    from xai_lib.explainers import lrp as library

    (alpha,) = e.details["values"]
    ends = torch.zeros(1, e.subject.channels, 1, 1, dtype=torch.float64)
    bounds = e.subject.normalised(ends), e.subject.normalised(ends + 1)
    composite = library.alpha_beta(float(alpha), zbox=bounds, bias="spread")
    account = library.check_conservation(twin_of(e.subject), composite, e.inputs, e.target)
    if float(account.error.abs()) > 1e-6:
        raise Wrong(f"{float(account.error):.2%} of the logit is lost in float64")
    wanted = library.relevance(twin_of(e.subject), e.inputs, e.target, composite)[0].sum(0)
    same(e.map, wanted, "relevance", 5 * e.tolerance)


def _epsilon_plus(_e: Explained) -> Callable[[int, int, nn.Module], Split]:
    return lambda _i, _n, m: alpha_beta(1) if isinstance(m, nn.Conv2d) else epsilon(1e-6)


def _pixels(e: Explained) -> Split:
    ends = torch.zeros(1, e.subject.channels, 1, 1, dtype=torch.float64)
    low, high = e.subject.normalised(ends), e.subject.normalised(ends + 1)
    before = e.subject.chain[0]
    return box(before(low), before(high)) if isinstance(before, Before) else box(low, high)


def _by_depth(e: Explained) -> Callable[[int, int, nn.Module], Split]:
    """z^B at the pixels, gamma in the first 54 % of convolutions, relative epsilon in the others, LRP-0 in the classifier."""
    convolutions = sum(isinstance(m, nn.Conv2d) for m in e.subject.chain)
    in_body = convolutions - isinstance(e.subject.chain[-2 if isinstance(e.subject.chain[-1], nn.Flatten) else -1], nn.Conv2d)

    def rule(i: int, n: int, m: nn.Module) -> Split:
        if i == 0:
            return _pixels(e)
        if i >= in_body:
            return epsilon(1e-9)
        return gamma(0.25) if i < round(0.54 * in_body) else epsilon(0.25, relative=True)

    return rule


def gamma(value: float) -> Split:
    """Montavon et al. 2019, in the form for outputs of both signs (Andéol et al. 2021): what agrees with z counts more."""

    def rule(m: nn.Module, x: Tensor, z: Tensor, r: Tensor) -> Tensor:
        up, un = x.clamp(min=0), x.clamp(max=0)
        b = apply(m, torch.zeros_like(x), bias=True)
        plus = apply(m, up, 1) + apply(m, un, -1) + b.clamp(min=0)
        minus = apply(m, up, -1) + apply(m, un, 1) + b.clamp(max=0)
        above = torch.where(z > 0, quotient(r, z + value * plus), 0)
        below = torch.where(z < 0, quotient(r, z + value * minus), 0)
        of = {(s, t): back(lambda v: apply(m, v, s), x, q) for s in (1, -1) for t, q in (("+", above), ("-", below))}  # noqa: B023
        grown = up * (of[1, "+"] + of[-1, "-"]) + un * (of[-1, "+"] + of[1, "-"])
        return x * back(lambda v: apply(m, v), x, above + below) + value * grown

    return rule


def _evolved(e: Explained) -> Callable[[int, int, nn.Module], Split]:
    """alpha-beta with the one alpha that was found, z^B at the pixels."""
    (alpha,) = e.details["values"]
    return lambda i, _n, _m: _pixels(e) if i == 0 else alpha_beta(float(alpha))


def rap(e: Explained) -> None:
    """Nam et al. 2020: the pixels sum to the logit; by hand where the twin is a chain."""
    with torch.no_grad():
        logit = float(twin_of(e.subject)(e.inputs)[0, e.target])
    near(e.details["logit"], logit, "logit", e.tolerance)
    if abs(float(e.map.sum()) - logit) > e.tolerance * (abs(logit) + 0.01 * float(e.map.abs().sum())):
        raise Wrong(f"pixels {float(e.map.sum()):.5g} do not sum to the logit {logit:.5g}")
    if e.subject.chain:
        same(e.map, rap_by_hand(e), "relevance", 5 * e.tolerance)


def rap_by_hand(e: Explained) -> Tensor:
    """Absolute influence at the last layer, criterion relevance with a uniform shift below, z^B of the image's own bounds."""
    start, *_ = [m for m in reversed(e.subject.chain) if isinstance(m, nn.Linear)]

    def rule(i: int, _n: int, m: nn.Module) -> Split:
        if i == 0:
            low, high = e.inputs.min(), e.inputs.max()
            before = e.subject.chain[0]
            ends = (torch.full_like(e.inputs, float(v)) for v in (low, high))
            return box(*(before(end) if isinstance(before, Before) else end for end in ends))
        return _influence if m is start else _criterion

    return by_hand(e, rule)


def _influence(m: nn.Module, x: Tensor, _z: Tensor, r: Tensor) -> Tensor:
    parts = (x * back(lambda v: apply(m, v), x, (r != 0).double())).abs()
    return parts * r.sum() / parts.sum()


def _criterion(m: nn.Module, x: Tensor, _z: Tensor, r: Tensor) -> Tensor:
    """p and n are the sizes of positive and negative contributions, P and N their sums (inputs are 0 or more)."""
    p, n = apply(m, x, 1), -apply(m, x, -1)
    positive, negative = (r, torch.zeros_like(r)) if isinstance(m, nn.Linear) else (r.clamp(min=0), r.clamp(max=0))
    found = x * back(lambda v: apply(m, v, 1), x, quotient(positive, p))
    share_n = quotient(r, p + n) + quotient(negative, n)
    found = found - x * back(lambda v: apply(m, v, -1), x, share_n)
    alive = found != 0
    return found - alive * ((found.sum() - r.sum()) / alive.sum())
