"""SHAP as paper 4 uses it: expected gradients of the logit, in the space of an early layer.

The estimator is that of Erion et al. 2021, "Improving performance of deep learning models with axiomatic attribution priors and
expected gradients", Nature Machine Intelligence 3, eq. 4, which the package shap calls GradientExplainer:

    phi_j = E over x' of the background, alpha uniform in 0..1, of (x_j - x'_j) * df(x' + alpha (x - x')) / dx_j,

and the phi sum to f(x) - E f(x'). Here x and x' are the layer's inputs h and h', and the path is straight in the layer's own
space. The package (0.51, torch, inner layer) does something else: it interpolates the images, and multiplies the gradient by
the activation of the interpolated image, without taking off that of the background. `backend="shap"` runs it, to compare.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate

from xai_lib import explanation
from xai_lib.classifiers import Classifier
from xai_lib.errors import XaiError
from xai_lib.explanation import Explainer, ExplanationError, checked_images
from xai_lib.images import View, load
from xai_lib.layer_inputs import LayerInput, check_complete, check_map, find, gradients_in_words

Backend = Literal["ours", "shap"]


class ShapMissing(XaiError):
    """The package shap is asked for and not installed."""


# ---------------------------------------------------------------------------------------------------------------------
# The estimator


class ExpectedGradients(NamedTuple):
    """`values` `(...)`, shaped like the point; `score` of the point; `expected`: mean score of the backgrounds drawn."""

    values: Tensor
    score: float
    expected: float

    @property
    def gap(self) -> float:
        """The sum of the values minus (score - expected), which goes to 0 with more samples."""
        return float(self.values.sum(dtype=torch.float64)) - (self.score - self.expected)


def expected_gradients(
    score: Callable[[Tensor], Tensor],
    point: Tensor,
    background: Tensor,
    *,
    samples: int = 200,
    rng: np.random.Generator | int = 0,
    stratified: bool = True,
    batch: int = 20,
) -> ExpectedGradients:
    """Expected gradients of `score`, a function from `(n, ...)` to `(n,)`, at `point` `(...)` against `background` `(B, ...)`.

    `stratified`: see `paths`. `batch`: samples in one pass; the result depends on it by rounding alone. Sums are float64,
    the values in the point's dtype.
    """
    indices, alphas = paths(samples, len(background), np.random.default_rng(rng), stratified)
    with torch.no_grad():
        expected = torch.cat([score(part) for part in background.split(batch)])[torch.from_numpy(indices)]
        own = float(score(point[None])[0])
    sums = _sums(score, point, lambda wanted: background[torch.from_numpy(wanted)], indices, alphas, batch)
    return ExpectedGradients(sums.to(point.dtype), own, float(expected.double().mean()))


def paths(samples: int, backgrounds: int, rng: np.random.Generator, stratified: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A background and an alpha in 0..1 a sample, sorted by background.

    Plain (the paper's): both drawn independently. `stratified` (our choice): backgrounds are dealt out like cards, each alpha
    in another part of 0..1 than the others of its background, and within a part spread over the backgrounds. Each pair alone
    is distributed as before, so that the estimate stays unbiased and varies less.
    """
    if samples < 1 or backgrounds < 1:
        raise ExplanationError(f"expected at least one sample and one background, found {samples} and {backgrounds}")
    if not stratified:
        indices, alphas = rng.integers(backgrounds, size=samples), rng.random(samples)
    else:
        rounds = -(-samples // backgrounds)
        indices = np.concatenate([rng.permutation(backgrounds) for _ in range(rounds)])[:samples]
        turn = np.arange(samples) // backgrounds
        part = rng.permuted(np.tile(np.arange(rounds), (backgrounds, 1)), axis=1)[indices, turn]
        alphas = np.empty(samples)
        for each in range(rounds):
            [members] = np.nonzero(part == each)
            n = len(members)
            alphas[members] = (each + (rng.permutation(n) + rng.random(n)) / max(n, 1)) / rounds
    order = np.argsort(indices, kind="stable")
    return indices[order], alphas[order]


def _sums(
    score: Callable[[Tensor], Tensor], point: Tensor, backgrounds: Callable[[np.ndarray], Tensor], indices: np.ndarray,
    alphas: np.ndarray, batch: int,
) -> Tensor:  # fmt: skip
    """The mean of gradient times difference, float64; `backgrounds` gives those of an array of indices."""
    total = torch.zeros_like(point, dtype=torch.float64)
    for at in range(0, len(indices), batch):
        start = backgrounds(indices[at : at + batch]).detach()
        way = point.detach() - start
        alpha = torch.from_numpy(alphas[at : at + batch]).to(way).view(-1, *[1] * point.ndim)
        with torch.enable_grad():
            x = torch.addcmul(start, alpha, way).requires_grad_()
            (gradient,) = torch.autograd.grad(score(x).sum(), x)
        wide = torch.promote_types(way.dtype, torch.float32)
        total += (gradient.to(wide) * way.to(wide)).sum(0, dtype=torch.float64)
    return total / len(indices)


# ---------------------------------------------------------------------------------------------------------------------
# What stands for "no information": the background


@lru_cache(maxsize=4)
def _crops(size: tuple[int, int], each: int, view: View) -> tuple[Tensor, Tensor]:
    """The packaged photographs as a network sees them, small `(n, 3, 16, 16)`, and crops of each `(n, each, 3, H, W)`."""
    rng = np.random.default_rng(20241119)
    how = Image.Resampling[view.interpolation.upper()]
    seen, crops = [], []
    for pixels in (photo.pixels for photo in map(load("photos").__getitem__, load("photos").names)):
        seen.append(_small(view.apply(pixels)))
        for _ in range(each):
            side = int(min(pixels.shape[:2]) * rng.uniform(0.5, 1))
            top, left = (int(rng.integers(extent - side + 1)) for extent in pixels.shape[:2])
            crop = pixels[top : top + side, left : left + side, :][:, :: -1 if rng.random() < 0.5 else 1]
            resized = Image.fromarray(np.ascontiguousarray(crop)).resize((size[1], size[0]), how)
            crops.append(torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255)
    return torch.stack(seen), torch.stack(crops).unflatten(0, (len(seen), each))


def _small(image: Tensor) -> Tensor:
    return interpolate(image[None], (16, 16), mode="area")[0]


def default_background(image: Tensor, n: int, rng: np.random.Generator, view: View | None = None) -> Tensor:
    """`n` pictures `(n, C, H, W)` for an explained one `(C, H, W)`: crops of the photographs inside the installed packages.

    Ten photographs are too few for a background, so that random squares of half to all of their shorter side, some of them
    mirrored, stand for them, the same ones for every image and target; `n` of them are drawn. If the explained image is one of
    the ten as `view` shows it (compared at 16 x 16), its crops are left out. For an image of one channel they are grey
    (luminance). Our choice: the authors take shap's fifty of ImageNet. Raises `ExplanationError` for other numbers of channels.
    """
    seen, crops = _crops((image.shape[1], image.shape[2]), max(6, -(-n // 9)), view or View())
    if len(image) == 1:
        seen, crops = ((t * LUMINANCE).sum(-3, keepdim=True) for t in (seen, crops))
    elif len(image) != 3:
        raise ExplanationError(
            f"background: the packaged photographs have three channels, the image has {len(image)}; give your own, a few dozen "
            f"ordinary images: Shap(background) with a tensor (B, {len(image)}, H, W) in 0..1"
        )
    others = (seen - _small(image.detach().cpu())).abs().mean((1, 2, 3)) > SAME
    pool = crops[others].flatten(0, 1)
    return pool[torch.from_numpy(np.sort(rng.permutation(len(pool))[:n]))].to(image)


LUMINANCE = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)  #: of red, green and blue, ITU-R BT.601
SAME = 0.03  #: mean difference of two pictures at 16 x 16 below which they are the same photograph


# ---------------------------------------------------------------------------------------------------------------------
# The explainer


@dataclass(frozen=True)
class Settings(explanation.Settings):
    """Where, how fine, and by whom it is computed."""

    samples: int = 200  #: pairs of background and alpha (shap's default; paper 4's authors take 10)
    background: int = 50  #: pictures drawn as background (as many as shap's `imagenet50`, which paper 4's authors use)
    layer: str = "auto"
    """Whose input: a dotted name, "pixels", "stride2" (the last activation at stride 2; also "auto") or "stride4" (the first at
    stride 4). VGG16: the inputs of `features.7`, which paper 4 calls the seventh layer, and of `features.10` (its Keras twin)."""
    stratified: bool = True  #: draws spread evenly (our choice), or independent as in the paper
    backend: Backend = "ours"  #: "shap": the package, for comparison; on inner layers it computes something else, see above
    batch: int = 20  #: samples in one pass, which bounds the memory; the map depends on it by rounding alone

    def __post_init__(self) -> None:
        if self.backend not in get_args(Backend):
            raise ExplanationError(f"backend: expected {' or '.join(get_args(Backend))}, found {self.backend!r}")
        for name in ("samples", "background", "batch"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ExplanationError(f"{name}: expected an integer of at least 1, found {value!r}")


class Shap(Explainer):
    """Expected gradients at the input of a layer, summed over channels, signed, stretched bilinearly to the image.

    `Shap(background)` takes pictures `(B, C, H, W)` in 0..1 as background, of which `settings.background` are drawn, the
    explained one left out; without them see `default_background`. The map is divided by the area of a cell of the layer, so
    that its sum stays that of the values but for the edges. `details`: `layer`, its `shape` and `reason`; `logit`; `expected`,
    the mean logit of the backgrounds drawn; `sum` of the values; `gap` = sum - (logit - expected) in logits, and
    `relative_gap`, its size in units of |logit - expected|; `low`, the map at the layer's size.
    """

    name = "shap"
    title = "SHAP: expected gradients at the input of an early layer"
    source = "Erion et al. 2021, Nat. Mach. Intell. 3; Lundberg, Lee 2017"
    needs = "gradients"
    cost = "451"
    signed = True
    settings_class = Settings

    def __init__(self, background: Tensor | None = None) -> None:
        self.background = None if background is None else checked_images(background, None)

    def explain_image(
        self, classifier: Classifier, image: Tensor, target: int, settings: Settings, rng: np.random.Generator
    ) -> tuple[Tensor, int, dict[str, Any]]:
        size = (image.shape[1], image.shape[2])
        background = self._background(classifier, image, settings, rng)
        place = find(classifier, settings.layer, size)
        if len(place.shape) != 3 or place.shape[1] * place.shape[2] < 2:
            raise ExplanationError(
                f"{classifier.name}: layer {place.name!r} gets {place.shape}, no maps (C, h, w) above 1x1 that could be drawn; "
                "name a convolution or pooling, or auto, or pixels"
            )
        compute = _ours if settings.backend == "ours" else _theirs
        with gradients_in_words(classifier):
            found, calls = compute(LayerInput(classifier, place.name), image, target, background, settings, rng)
        low, change = found.values.sum(0), found.score - found.expected
        check_map(classifier, low)
        area = low.numel() / (size[0] * size[1])
        saliency = interpolate(low[None, None].float(), size, mode="bilinear", align_corners=False)[0, 0] * area
        return saliency, calls, {
            "layer": place.name, "shape": place.shape, "reason": place.reason, "logit": found.score,
            "expected": found.expected, "sum": change + found.gap, "gap": found.gap,
            "relative_gap": abs(found.gap) / abs(change) if change else float("inf"), "low": low.float().cpu(),
            "backgrounds": len(background), "samples": settings.samples, "backend": settings.backend, "calls": calls,
        }  # fmt: skip

    def _background(self, classifier: Classifier, image: Tensor, settings: Settings, rng: np.random.Generator) -> Tensor:
        if self.background is None:
            return default_background(image, settings.background, rng, classifier.view)
        given = self.background.to(image)
        if given.shape[1:] != image.shape:
            raise ExplanationError(f"background: expected pictures of {tuple(image.shape)}, found {tuple(given.shape[1:])}")
        others = given[(given - image).abs().amax((1, 2, 3)) > 1e-6]
        if not len(others):
            raise ExplanationError("background: there is no picture but the explained one")
        return others[torch.from_numpy(np.sort(rng.permutation(len(others))[: settings.background]))]


def _ours(
    inputs: LayerInput, image: Tensor, target: int, background: Tensor, settings: Settings, rng: np.random.Generator
) -> tuple[ExpectedGradients, int]:
    """As `expected_gradients`, but that each background's activation is made when its samples come, and not kept."""
    indices, alphas = paths(settings.samples, len(background), rng, settings.stratified)
    with torch.no_grad():
        point, logits = inputs.of(image[None])
    scores: dict[int, float] = {}

    def activations(wanted: np.ndarray) -> Tensor:
        distinct, where = np.unique(wanted, return_inverse=True)
        held, found = inputs.of(background[torch.from_numpy(distinct)])
        scores.update(zip(distinct.tolist(), found[:, target].double().tolist(), strict=True))
        return held[torch.from_numpy(where)]

    def score(x: Tensor) -> Tensor:
        return inputs.logits(image[None], x)[:, target]

    sums = _sums(score, point[0], activations, indices, alphas, settings.batch)
    expected = float(np.mean([scores[i] for i in indices.tolist()]))
    found = ExpectedGradients(sums, float(logits[0, target]), expected)
    check_complete(inputs.classifier, score, point, found.gap, found.score - expected)
    return found, 1 + len(scores) + 2 * settings.samples


# ---------------------------------------------------------------------------------------------------------------------
# The package, for comparison


class _One(nn.Module):
    """One logit of a classifier, `(N, 1)`."""

    def __init__(self, classifier: Classifier, target: int) -> None:
        super().__init__()
        self.classifier, self.target = classifier, target

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(images)
        return logits[:, self.target : self.target + 1]


def _theirs(
    inputs: LayerInput, image: Tensor, target: int, background: Tensor, settings: Settings, rng: np.random.Generator
) -> tuple[ExpectedGradients, int]:
    try:
        from shap import GradientExplainer
    except ImportError as error:
        raise ShapMissing(f'backend="shap" needs the package shap ({error}); install it, or take backend="ours"') from None
    one = _One(inputs.classifier, target)
    with torch.no_grad():
        score = float(one(image[None])[0, 0])
        expected = float(torch.cat([one(part) for part in background.split(settings.batch)]).double().mean())
    with _global_generators_kept(), torch.enable_grad():
        model: Any = one if inputs.name == "pixels" else (one, inputs.classifier.layer(inputs.name))
        explainer = GradientExplainer(model, background, batch_size=settings.batch)
        values = explainer.shap_values(image[None], nsamples=settings.samples, rseed=int(rng.integers(2**31)))
    found = torch.as_tensor(np.asarray(values)[0, ..., 0], dtype=torch.float64)
    return ExpectedGradients(found.to(image.device), score, expected), 1 + len(background) + 2 * settings.samples


@contextmanager
def _global_generators_kept() -> Iterator[None]:
    """shap seeds NumPy's global generator, and draws from torch's with smoothing."""
    numpy_state, torch_state, python_state = np.random.get_state(), torch.get_rng_state(), random.getstate()
    try:
        yield
    finally:
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        random.setstate(python_state)
