"""What is right, by hand in float64 on the plain twin: one function a family of methods.

Each takes an `Explained` and raises `Wrong` with a word on what differs. Formulas are those of the papers that the methods
name; nothing here uses the package but its documented results.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, linear

from tests.contract.subject import Before, Part, Subject


class Wrong(AssertionError):
    """A map or a number that the oracle contradicts."""


@dataclass
class Explained:
    """One subject with what a method gave: its map `(H, W)` in float64, target and details."""

    subject: Subject
    method: str
    settings: Any
    map: Tensor
    target: int
    details: dict[str, Any]

    @cached_property
    def inputs(self) -> Tensor:
        """The explained image as the twin takes it, `(1, C, H, W)` float64."""
        return self.subject.normalised(self.subject.image[None].double())

    @property
    def tolerance(self) -> float:
        return self.subject.tolerance


def twin_of(subject: Subject) -> nn.Module:
    if subject.twin is None:
        raise Wrong("a network that every method must refuse was explained")
    return subject.twin


def log_odds(logits: Tensor, target: int, link: str) -> Tensor:
    """The score `(N,)`: the logit less logsumexp of the others; of independent labels, and of one column, the logit."""
    if link == "sigmoid":
        return logits[:, target]
    others = [k for k in range(logits.shape[1]) if k != target]
    return logits[:, target] - logits[:, others].logsumexp(1)


def probability(logits: Tensor, target: int, link: str) -> Tensor:
    return log_odds(logits, target, link).sigmoid()


def check_target(e: Explained) -> None:
    """The class that is explained is the twin's most probable one."""
    with torch.no_grad():
        wanted = int(twin_of(e.subject)(e.inputs).argmax())
    if e.target != wanted:
        raise Wrong(f"class {e.target} explained, the most probable one is {wanted}")


def same(found: Tensor, wanted: Tensor, what: str, tolerance: float) -> None:
    """Raise `Wrong` unless `found` is `wanted` up to a relative error, by the Euclidean norm; `wanted` is not constant."""
    if found.shape != wanted.shape or not bool(torch.isfinite(found).all()):
        raise Wrong(f"{what}: shape {tuple(found.shape)} or values that are not finite; {tuple(wanted.shape)} expected")
    if float(wanted.double().std()) == 0:
        raise Wrong(f"{what}: the right answer is constant, which explains nothing")
    error = float((found.double() - wanted.double()).norm() / wanted.double().norm())
    if not error <= tolerance:
        raise Wrong(f"{what}: off by {error:.1%} of its length")


def near(found: float, wanted: float, what: str, tolerance: float) -> None:
    if not abs(found - wanted) <= tolerance * max(1.0, abs(wanted)):
        raise Wrong(f"{what}: {found:.5g}, by hand {wanted:.5g}")


# Class activation maps ----------------------------------------------------------------------------------------------


def feature_maps(e: Explained, targets: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Maps `(K, h, w)` that a CAM may take, and gradients `(T, K, h, w)` of the targets' log-odds by them."""
    network, link = twin_of(e.subject), e.subject.link
    if e.subject.splits:
        for features, head in e.subject.splits:
            maps = features(e.inputs).detach().requires_grad_()
            yield _gradients(head(maps), maps, targets, link, nn.Identity())
        return
    name = str(e.details["layer"] if "layer" in e.details else e.details["groups"].layer)
    kept: list[Tensor] = []

    def hold(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1].clone()  # what follows may write into it

    with network.get_submodule(name).register_forward_hook(hold):
        logits = network(e.inputs)
    maps, gradients = _gradients(logits, kept[-1], targets, link, e.subject.fold)
    if maps.ndim != 3 or (e.subject.grids and maps.shape[1:] not in [(side, side) for side in e.subject.grids]):
        raise Wrong(f"layer {name!r} gives {tuple(kept[-1].shape)}, no feature maps")
    yield maps, gradients


def _gradients(logits: Tensor, raw: Tensor, targets: Sequence[int], link: str, fold: Part) -> tuple[Tensor, Tensor]:
    scores = [log_odds(logits, t, link).sum() for t in targets]
    gradients = [torch.autograd.grad(s, raw, retain_graph=True)[0] for s in scores]
    return fold(raw.detach())[0], torch.stack([fold(g)[0] for g in gradients])


def stretched(low: Tensor, size: tuple[int, int]) -> Tensor:
    """A map `(h, w)` from its least to its largest value, enlarged bicubically to `size`, cut off at 0."""
    low = (low - low.min()) / (low.max() - low.min()).clamp(min=1e-300)
    return interpolate(low[None, None], size, mode="bicubic", align_corners=False)[0, 0].clamp(min=0)


def grad_cam(a: Tensor, g: Tensor) -> Tensor:
    """Selvaraju et al. 2017, eqs. 1 and 2."""
    return (g.mean((1, 2))[:, None, None] * a).sum(0).relu()


def grad_cam_pp(a: Tensor, g: Tensor) -> Tensor:
    """Chattopadhay et al. 2018, eqs. 18, 19, of exp(score)."""
    below = 2 * g**2 + a.sum((1, 2), keepdim=True) * g**3
    alpha = torch.where(below != 0, g**2 / below, 0)
    return ((alpha * g.relu()).sum((1, 2))[:, None, None] * a).sum(0).relu()


def layer_cam(a: Tensor, g: Tensor) -> Tensor:
    """Jiang et al. 2021, eqs. 6 to 8."""
    return (g.relu() * a).sum(0).relu()


def fem(a: Tensor, _g: Tensor) -> Tensor:
    """Fuad et al. 2020: a unit's mean where it exceeds its mean by two deviations."""
    mean, deviation = a.mean((1, 2), keepdim=True), a.std((1, 2), correction=0, keepdim=True)
    return ((a > mean + 2 * deviation) * mean).sum(0).relu()


CAMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "grad_cam": grad_cam, "grad_cam_pp": grad_cam_pp, "layer_cam": layer_cam, "fem": fem,
}  # fmt: skip


def any_of(checks: Sequence[Callable[[], None]]) -> None:
    """One of several right answers is enough; the last `Wrong` is raised where none is given."""
    found: Wrong | None = None
    for check in checks:
        try:
            return check()
        except Wrong as wrong:
            found = wrong
    raise found or Wrong("no feature maps to compare with")


def cam(e: Explained) -> None:
    by_hand, tolerance = CAMS[e.method], e.tolerance
    any_of([
        lambda a=a, g=g: same(e.map, stretched(by_hand(a, g[0]), e.subject.size), "map", tolerance)  # type: ignore[misc]
        for a, g in feature_maps(e, [e.target])
    ])  # fmt: skip


def score_cam(e: Explained) -> None:
    """Wang et al. 2020: maps weighted by the softmax of the logits of what they show, less that of the image."""

    def check(a: Tensor) -> None:
        span = a.amax((1, 2), keepdim=True) - a.amin((1, 2), keepdim=True)
        masks = torch.where(span > 0, (a - a.amin((1, 2), keepdim=True)) / span.clamp(min=1e-300), 0)
        masks = interpolate(masks[:, None], e.subject.size, mode="bilinear", align_corners=False)
        with torch.no_grad():
            shown = twin_of(e.subject)(e.subject.normalised(e.subject.image.double() * masks))[:, e.target]
        same(e.map, stretched((shown.softmax(0)[:, None, None] * a).sum(0).relu(), e.subject.size), "map", e.tolerance)

    any_of([lambda a=a: check(a) for a, _ in feature_maps(e, [e.target])])  # type: ignore[misc]


def advise(e: Explained) -> None:
    """Dehshibi et al. 2022, algorithm 1: weights and the reported group's map; peaks are taken from the details."""
    groups = e.details["groups"]

    def check(a: Tensor, g: Tensor) -> None:
        alphas = g.mean((2, 3))
        for found, wanted in zip(groups.alphas.double(), alphas, strict=True):
            if len(alphas) == 2 and e.subject.twin is not None:
                same(found / found.norm(), wanted / wanted.norm(), "weights", e.tolerance)
        members = groups.scores == groups.peaks[e.details["reported"]]
        low = (alphas[0][:, None, None] * a)[members].sum(0).relu()
        same(e.map, stretched(low, e.subject.size), "map", e.tolerance)

    if not groups.peaks:
        raise Wrong("no group of units has a map")
    any_of([lambda a=a, g=g: check(a, g) for a, g in feature_maps(e, groups.targets)])  # type: ignore[misc]


# Gradients by pixels ------------------------------------------------------------------------------------------------


def path_integral(e: Explained, start: Tensor, score: Callable[[Tensor], Tensor], steps: int) -> Tensor:
    """Sundararajan et al. 2017, eq. 1, by captum on the twin, summed over channels; Gauss-Legendre as captum's default."""
    from captum.attr import IntegratedGradients

    integral = IntegratedGradients(lambda x: score(twin_of(e.subject)(e.subject.normalised(x))))
    found: Tensor = integral.attribute(e.subject.image[None].double(), start[None].double(), n_steps=steps)
    return found[0].sum(0).detach()


def integrated_gradients(e: Explained) -> None:
    def score(logits: Tensor) -> Tensor:
        return log_odds(logits, e.target, e.subject.link)

    start = torch.zeros_like(e.subject.image)
    same(e.map, path_integral(e, start, score, e.settings.steps), "map", e.tolerance)
    with torch.no_grad():
        ends = e.inputs, e.subject.normalised(start[None].double())
        scores = [float(score(twin_of(e.subject)(end))) for end in ends]
    near(e.details["completeness"], float(e.map.sum()) - (scores[0] - scores[1]), "completeness", e.tolerance)


def shap(e: Explained, background: Tensor) -> None:
    """Erion et al. 2021: with one background the path integral from it; its sum is the change of the logit."""
    twin = twin_of(e.subject)
    with torch.no_grad():
        logit = float(twin(e.inputs)[0, e.target])
        expected = float(twin(e.subject.normalised(background.double()))[0, e.target])
    near(e.details["logit"], logit, "logit", e.tolerance)
    near(e.details["expected"], expected, "expected logit", e.tolerance)
    size = float(e.map.abs().sum()) + abs(logit - expected)
    if abs(e.details["sum"] - (logit - expected)) > 0.05 * size:
        raise Wrong(f"values sum to {e.details['sum']:.4g}, the logit changes by {logit - expected:.4g}")
    if e.details["layer"] == "pixels":
        wanted = path_integral(e, background[0], lambda z: z[:, e.target], 50)
        same(e.map, wanted, "map", 0.15 + e.tolerance)


# Masks of superpixels -----------------------------------------------------------------------------------------------


def every_mask(d: int) -> np.ndarray:
    """All masks bool `(2^d, d)`; number m keeps superpixel i where bit i of m is set."""
    return (np.arange(2**d)[:, None] >> np.arange(d)) & 1 == 1


@torch.no_grad()
def answers(e: Explained, masks: np.ndarray, dtype: torch.dtype = torch.float64) -> np.ndarray:
    """The twin's log-odds of the target on the image with only the kept superpixels, the others black."""
    shown = torch.from_numpy(masks)[:, torch.as_tensor(e.details["segments"])][:, None]
    images = e.subject.normalised(torch.where(shown, e.subject.image.to(dtype), 0))
    network = twin_of(e.subject).to(dtype)
    logits = torch.cat([network(part) for part in images.split(64)])
    network.double()
    return log_odds(logits.double(), e.target, e.subject.link).numpy()


def table(e: Explained) -> np.ndarray:
    """`answers` of every mask, kept with the subject: six methods ask for them."""
    known = e.subject.__dict__.setdefault("_answers", {})
    segments = torch.as_tensor(e.details["segments"])
    d = int(segments.max()) + 1
    assert d <= 10, f"{d} superpixels: choose an image of fewer"
    key = e.target, segments.numpy().tobytes()
    if key not in known:
        known[key] = answers(e, every_mask(d), torch.float32)
    found: np.ndarray = known[key]
    return found


def _reported(e: Explained) -> None:
    wanted = 1 / (1 + math.exp(-float(answers(e, np.asarray(e.details["kept"])[None])[0])))
    near(e.details["probability"], wanted, "probability of what is kept", e.tolerance / 4)


def search(e: Explained) -> None:
    """What is kept is among the best tenth of all masks (greedy: what greed by hand reaches), and the map shows it."""
    _reported(e)
    kept = np.asarray(e.details["kept"])
    segments = torch.as_tensor(e.details["segments"])
    if not torch.equal(e.map > 0, torch.from_numpy(kept)[segments]):
        raise Wrong("the map does not show what is kept")
    scores = table(e)
    reached = float(scores[int((kept * 2 ** np.arange(len(kept))).sum())])
    if e.method.startswith("greedy"):
        wanted = greedy(scores, len(kept), e.method == "greedy_deletion")
    else:
        wanted = float(np.quantile(scores, 0.9))
    if reached < wanted - e.tolerance * (1 + abs(wanted)):
        raise Wrong(f"log-odds {reached:.3f} of what is kept, {wanted:.3f} by hand")


def greedy(scores: np.ndarray, d: int, deletion: bool) -> float:
    """The best log-odds on the way of greed, from all superpixels or from none, one a step."""
    mask, left = (2**d - 1 if deletion else 0), list(range(d))
    best = scores[mask]
    while left:
        step = max(left, key=lambda i: scores[mask ^ (1 << i)])
        mask ^= 1 << step
        left.remove(step)
        best = max(best, scores[mask])
    return float(best)


def lime(e: Explained) -> None:
    """The weighted ridge regression of the `lime` package (Ribeiro et al. 2016), on all masks in place of random ones."""
    _reported(e)
    weights = np.asarray(e.details["weights"], dtype=np.float64)
    segments = torch.as_tensor(e.details["segments"])
    same(e.map, torch.from_numpy(weights)[segments], "map", 1e-5)
    d = len(weights)
    masks, kept = every_mask(d).astype(float), every_mask(d).sum(1)
    by_size = np.array([1 / ((d + 1) * math.comb(d, k)) for k in kept])  # every number kept equally often
    drawn = by_size if e.method == "lime_stratified" else np.full(2**d, 2.0**-d)
    near_full = np.sqrt(np.exp(-((1 - np.sqrt(kept / d)) ** 2) / 0.25**2))
    weight = e.settings.samples * drawn * near_full
    y = 1 / (1 + np.exp(-table(e)))
    centred = masks - np.average(masks, 0, weight)
    gram = centred.T @ (weight[:, None] * centred) + np.eye(d)
    wanted = np.linalg.solve(gram, centred.T @ (weight * (y - np.average(y, 0, weight))))
    same(torch.from_numpy(weights), torch.from_numpy(wanted), "weights", 0.3)


# Relevance ----------------------------------------------------------------------------------------------------------

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
    if e.method in ("lrp", "lrp_composite"):
        near(e.details["logit"], logit, "logit", e.tolerance)
        near(e.details["pixels"], float(e.map.sum()), "sum of the map", e.tolerance)
    if e.method == "lrp" or not e.subject.chain:
        kept = e.details.get("biases", 0.0)  # EVO-LRP with bias="spread": none
        size = abs(logit) + 0.01 * float(e.map.abs().sum())
        if abs(float(e.map.sum()) + kept - logit) > 2 * e.tolerance * size:
            raise Wrong(f"pixels {float(e.map.sum()):.5g} and biases {kept:.5g} do not sum to the logit {logit:.5g}")
        if float(e.map.std()) == 0:
            raise Wrong("a constant map")


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


CHECKS: dict[str, Callable[..., None]] = {
    **dict.fromkeys(CAMS, cam), "score_cam": score_cam, "advise": advise, "integrated_gradients": integrated_gradients,
    "shap": shap, **dict.fromkeys(("elime", "greedy_deletion", "greedy_insertion", "random_search"), search),
    "lime": lime, "lime_stratified": lime, **dict.fromkeys(("lrp", "lrp_composite", "evo_lrp"), lrp), "rap": rap,
}  # fmt: skip
