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
from torch.nn.functional import interpolate

from tests.contract.subject import Part, Subject


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
    """Maps `(K, h, w)` that a CAM may take, and gradients `(T, K, h, w)` of the log-odds of `targets`, none or more."""
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
    gradients = [fold(torch.autograd.grad(s, raw, retain_graph=True)[0])[0] for s in scores]
    maps = fold(raw.detach())[0]
    return maps, torch.stack(gradients) if gradients else maps.new_empty(0, *maps.shape)


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


def fem(a: Tensor) -> Tensor:
    """Fuad et al. 2020: a unit's mean where it exceeds its mean by two deviations."""
    mean, deviation = a.mean((1, 2), keepdim=True), a.std((1, 2), correction=0, keepdim=True)
    return ((a > mean + 2 * deviation) * mean).sum(0).relu()


CAMS: dict[str, Callable[..., Tensor]] = {
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
        lambda a=a, g=g: same(e.map, stretched(by_hand(a, *g[:1]), e.subject.size), "map", tolerance)  # type: ignore[misc]
        for a, g in feature_maps(e, [e.target] if e.method != "fem" else [])
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

    any_of([lambda a=a: check(a) for a, _ in feature_maps(e, [])])  # type: ignore[misc]


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
    same(e.map, path_integral(e, start, score, e.settings.steps), "map", 2 * e.tolerance)
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
    # a search ranks in bfloat16 where the processor does
    if reached < wanted - max(0.02, e.tolerance) * float(np.ptp(scores)):
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
