"""Does a map say what the network uses, is it short, and does it keep still? Faithfulness, sparseness, sensitivity.

Faithfulness correlation, sparseness and average sensitivity are those of the package quantus 0.6.0, with one difference:
what quantus draws from the global generator is handed over here, so that every map meets the same perturbations and the
network runs once for all maps. Pixel flipping and the symmetric relevance gain need a network run for each map.

Inputs are normalised images `(N, C, H, W)`, as the network takes them; `network` is any function from those to logits
`(N, classes)`, in evaluation mode; of a `Classifier` that is `classifier.core`. Batches are channels last, 0.45 to 0.8 of
the time on a processor, where the network bears it: it has to give the first image the logits that it gives it otherwise.
Answers in float64 lie where the maps do, but on the processor for maps on Apple's GPU, which has no float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from xai_lib.errors import XaiError
from xai_lib.inference import laid

Network = Callable[[Tensor], Tensor]
Order = Literal["most", "least"]
"""Which cells are replaced first: those with the most or with the least relevance."""

BASELINES: dict[str, Callable[[Tensor], Tensor]] = {
    "black": lambda features: features.amin(1),
    "mean": lambda features: features.mean(1),
    "white": lambda features: features.amax(1),
}
"""One value an image from its normalised features `(N, F)`, as in quantus: not one a channel, and black is not zero."""

SOFTMAX: Callable[[Tensor], Tensor] = lambda logits: logits.softmax(1)  # noqa: E731
FLIPPED_AT_ONCE = 8  #: images in one forward pass of pixel flipping


class FaithfulnessError(XaiError):
    """Tensors that do not fit each other, or a choice that the metric does not have."""


# ---------------------------------------------------------------------------------------------------------------------
# Faithfulness correlation


def subsets(shape: tuple[int, int, int], runs: int = 100, size: int = 224, *, rng: np.random.Generator) -> Tensor:
    """`runs` random subsets of the features of an image of `shape` (C, H, W): `(R, S)` int64 places in C*H*W.

    No place comes twice in a row; channels are drawn apart. Defaults are those of quantus. Raises `FaithfulnessError`.
    """
    features = math.prod(shape)
    if runs < 1 or not 1 <= size <= features:
        raise FaithfulnessError(
            f"subsets: expected runs >= 1 and a size of 1..{features}, the features of {tuple(shape)}; "
            f"found runs={runs}, size={size}"
        )
    return torch.from_numpy(np.stack([rng.choice(features, size, replace=False) for _ in range(runs)]).astype(np.int64))


@torch.no_grad()
def drops(
    network: Network,
    inputs: Tensor,
    targets: Tensor,
    indices: Tensor,
    *,
    baseline: str | float = "black",
    batch: int = 8,
) -> Tensor:
    """By how much the target's logit falls when the features of each subset are replaced: `(N, R)`, in logits.

    `inputs` `(N, C, H, W)`, `targets` `(N,)`; `indices` `(R, S)` for all images or `(N, R, S)`, from `subsets`.
    `baseline`: "black", "mean" or "white" (least, mean or largest feature of each normalised image), or a number.
    `batch`: perturbed images in one forward pass, all of one image; the result depends on it by rounding alone. Costs
    R + 1 forward passes an image and serves any number of maps. Raises `FaithfulnessError`.
    """
    wanted = _checked(network, inputs, targets)
    if batch < 1:
        raise FaithfulnessError(f"batch: expected at least 1, found {batch}")
    chosen = _checked_indices(indices, math.prod(inputs.shape[1:]), len(inputs)).to(inputs.device)
    asked, rows = _Asked(network, inputs), []
    for n, (image, target, value) in enumerate(zip(inputs, wanted, _values(inputs, baseline), strict=True)):
        parts = (chosen if chosen.ndim == 2 else chosen[n]).split(batch)
        changed = (image.flatten().repeat(len(p), 1).scatter(1, p, value).view(-1, *image.shape) for p in parts)
        whole = asked(image[None], target)[:, target]
        rows.append(whole - torch.cat([asked(images, target)[:, target] for images in changed]))
    return torch.stack(rows)


def attributed(maps: Tensor, indices: Tensor, channels: int) -> Tensor:
    """Sum of each map over each subset: maps `(..., 1 or C, H, W)` -> `(..., R)` float64.

    `channels`: C of the image from which `indices` `(R, S)` were drawn. A map of one channel holds for every channel:
    place i means its pixel i % (H*W). With `indices` `(N, R, S)` the maps are `(..., N, 1 or C, H, W)`, each image with its
    own subsets. The maps are not divided by their maximum, as quantus does: a correlation does not care. Raises
    `FaithfulnessError`.
    """
    if maps.ndim < 3 or maps.shape[-3] not in (1, channels):
        raise FaithfulnessError(
            f"maps: expected (..., 1 or {channels}, H, W), found {tuple(maps.shape)}; "
            "add the axis of channels with maps[..., None, :, :]"
        )
    maps = _able_of_float64(maps)
    pixels = maps.shape[-2] * maps.shape[-1]
    images = maps.shape[-4] if indices.ndim == 3 and maps.ndim > 3 else None
    chosen = _checked_indices(indices, channels * pixels, images).to(maps.device)
    if maps.shape[-3] == 1:
        chosen = chosen % pixels
    features, places = maps.flatten(-3), chosen.flatten(-2)
    if chosen.ndim == 2:
        values = features.index_select(-1, places)
    else:
        values = features.gather(-1, places.expand(*features.shape[:-1], -1))
    return values.unflatten(-1, chosen.shape[-2:]).sum(-1, dtype=torch.float64)


def faithfulness_correlation(maps: Tensor, drops: Tensor, indices: Tensor, channels: int = 3) -> Tensor:
    """Pearson's correlation, over the subsets, of what a map gives them with what the network loses: `(..., N)`, -1..1.

    `maps` `(..., N, 1 or C, H, W)`, `drops` `(N, R)` and `indices` `(R, S)` or `(N, R, S)` of the same images. Higher is
    better; with R = 100 chance alone gives about ±0.1. A map times a positive number scores the same. NaN where a map
    gives all subsets the same or the network loses the same on all: count those. float64. Raises `FaithfulnessError`.

    Bhatt, Weller, Moura 2020, arXiv 2005.00631, as in quantus 0.6.0 (the sum over a subset, not the mean).
    """
    runs = indices.shape[-2] if indices.ndim > 1 else 0
    if maps.ndim < 4 or drops.shape != (maps.shape[-4], runs):
        raise FaithfulnessError(
            "expected maps (..., N, 1 or C, H, W), drops (N, R) and indices (R, S) or (N, R, S); "
            f"found {tuple(maps.shape)}, {tuple(drops.shape)} and {tuple(indices.shape)}"
        )
    given = attributed(maps, indices, channels)
    lost = drops.to(given.device, torch.float64)
    constant = (given.amax(-1) == given.amin(-1)) | (lost.amax(-1) == lost.amin(-1))  # a rounded mean would hide it
    given, lost = given - given.mean(-1, keepdim=True), lost - lost.mean(-1, keepdim=True)
    given, lost = (v / torch.linalg.vector_norm(v, dim=-1, keepdim=True) for v in (given, lost))
    return (given * lost).sum(-1).clamp(-1, 1).masked_fill(constant, math.nan)


# ---------------------------------------------------------------------------------------------------------------------
# Sparseness and sensitivity


def sparseness(maps: Tensor) -> Tensor:
    """Gini index of the absolute values of maps `(..., H, W)`, channels summed: `(...)` float64.

    0 for a constant map, 1 - 1/(H*W) for a single pixel; higher is better. NaN for a map of zeros. Each map is divided by
    its own largest absolute value before quantus's 1e-7 is added, so that maps do not depend on those beside them.
    Raises `FaithfulnessError`.

    Chalasani et al. 2020, arXiv 1810.06583, as in quantus 0.6.0.
    """
    if maps.ndim < 2:
        raise FaithfulnessError(f"maps: expected (..., H, W), found {tuple(maps.shape)}")
    maps = _able_of_float64(maps.detach())
    ordered = _ascending(maps.abs().flatten(-2))
    ordered = ordered / ordered[..., -1:] + 1e-7
    n = ordered.shape[-1]
    ranks = torch.arange(1, n + 1, device=maps.device, dtype=torch.float64)
    return (ordered @ (2 * ranks - n - 1)) / (n * ordered.sum(-1))


def perturbed(inputs: Tensor, samples: int = 5, bound: float = 0.2, *, rng: np.random.Generator) -> Tensor:
    """Copies of `inputs` `(N, C, H, W)`, each feature moved by at most `bound`, uniform: `(K, N, C, H, W)` as `inputs`.

    In normalised units, where 0.2 is about 0.045 of the range of a picture. The noise of an image does not depend on the
    images after it. 0.2 is quantus's; its number of samples is 200. Raises `FaithfulnessError`.
    """
    if samples < 1 or not 0 < bound < math.inf:
        raise FaithfulnessError(f"perturbed: expected samples >= 1 and a bound > 0, found samples={samples}, bound={bound}")
    noise = [rng.uniform(-bound, bound, (samples, *image.shape)).astype(np.float32) for image in inputs]
    return inputs + torch.from_numpy(np.stack(noise, 1)).to(inputs)


def average_sensitivity(maps: Tensor, perturbed_maps: Tensor, *, axes: int = 2) -> Tensor:
    """How far maps move when the images are perturbed, relative to their length: `(...)` float64, lower is better.

    `maps` `(..., H, W)` of the images, `perturbed_maps` `(K, ..., H, W)` of their copies for the same targets. The mean
    over K of the Euclidean distances, divided by the norm of the map; NaN for a map of zeros. `axes`: how many of the last
    axes make one map, 3 for maps `(..., C, H, W)`. Raises `FaithfulnessError`.

    Yeh et al. 2019, arXiv 1901.09392, as in quantus 0.6.0.
    """
    if axes < 1 or maps.ndim < axes or perturbed_maps.ndim != maps.ndim + 1 or perturbed_maps.shape[1:] != maps.shape:
        raise FaithfulnessError(
            f"expected maps with {axes} axes or more and perturbed_maps (K, ...) of the same shape behind K; "
            f"found {tuple(maps.shape)} and {tuple(perturbed_maps.shape)}"
        )
    maps, perturbed_maps = _able_of_float64(maps), _able_of_float64(perturbed_maps)
    last = tuple(range(-axes, 0))
    length = torch.linalg.vector_norm(maps, dim=last, dtype=torch.float64)
    moved = [torch.linalg.vector_norm(maps - other, dim=last, dtype=torch.float64) for other in perturbed_maps]
    return (torch.stack(moved).mean(0) / length).masked_fill(length == 0, math.nan)


# ---------------------------------------------------------------------------------------------------------------------
# Pixel flipping


@torch.no_grad()
def pixel_flipping(
    network: Network,
    inputs: Tensor,
    targets: Tensor,
    maps: Tensor,
    *,
    steps: int = 20,
    cells: int = 14,
    baseline: str | float = "black",
    order: Order = "most",
    probabilities: Callable[[Tensor], Tensor] = SOFTMAX,
) -> Tensor:
    """The target's probability as more and more of the image is replaced: `(N, steps + 1)`, 0..1.

    `inputs` `(N, C, H, W)`, `targets` `(N,)`, `maps` `(N, H, W)` or `(N, 1 or C, H, W)`, whose channels are summed. The
    image is cut into `cells` x `cells` rectangles; those with the most (or least) relevance, summed, go first, and ties from
    the top left. In column k the first round(k * cells² / steps) of them have the value `baseline` (as in `drops`): none in
    the first column, all in the last. `probabilities`: from logits `(n, classes)`; `classifier.probabilities_of` where they
    are not the softmax, as of independent labels. Costs `steps` + 1 forward passes an image. Raises `FaithfulnessError`.

    Samek et al. 2017, arXiv 1509.06321 (regions in order of their relevance).
    """
    if order not in get_args(Order):
        raise FaithfulnessError(f"order: expected {' or '.join(get_args(Order))}, found {order!r}")
    wanted = _checked(network, inputs, targets)
    height, width = inputs.shape[-2:]
    if not 1 <= cells <= min(height, width) or not 1 <= steps <= cells**2:
        raise FaithfulnessError(
            f"expected cells of 1..{min(height, width)} and steps of 1..cells², found cells={cells}, steps={steps}"
        )
    summed = _channels_summed(maps, inputs)
    row, column = (torch.arange(n, device=summed.device) * cells // n for n in (height, width))
    down, across = (one_hot(line, cells).double() for line in (row, column))
    sums = (down.T @ summed @ across).flatten(1)
    turn = sums.argsort(stable=True, dim=1, descending=order == "most").argsort(1)
    whens = turn[:, row[:, None] * cells + column].to(inputs.device)  # (N, H, W)
    counts = torch.tensor([round(k * cells**2 / steps) for k in range(steps + 1)], device=inputs.device)
    asked, curves = _Asked(network, inputs), []
    for image, target, value, when in zip(inputs, wanted, _values(inputs, baseline), whens, strict=True):
        changed = (torch.where(when < c[:, None, None, None], value, image) for c in counts.split(FLIPPED_AT_ONCE))
        curves.append(torch.cat([probabilities(asked(images, target))[:, target] for images in changed]))
    return torch.stack(curves)


def symmetric_relevance_gain(
    network: Network,
    inputs: Tensor,
    targets: Tensor,
    maps: Tensor,
    *,
    steps: int = 20,
    cells: int = 14,
    baseline: str | float = "black",
    probabilities: Callable[[Tensor], Tensor] = SOFTMAX,
) -> Tensor:
    """Area under the curve with the least relevant first minus that with the most relevant first: `(N,)`, -1..1.

    About 0 for a random order, higher is better; the negative of a map has the negative gain. The areas are trapezoids over
    evenly spaced columns, 0..1. Arguments, cost (twice) and errors as in `pixel_flipping`.

    Blücher, Vielhaben, Strodthoff 2024, arXiv 2401.06654. Theirs: the difference of the two areas, which depends less on
    what replaces the pixels than either. Ours: cells in place of superpixels, the target's softmax probability as the
    curve, and one baseline value an image.
    """
    least, most = (
        pixel_flipping(
            network, inputs, targets, maps, steps=steps, cells=cells, baseline=baseline, order=order, probabilities=probabilities
        )
        for order in ("least", "most")
    )
    return torch.trapezoid(least - most, dx=1 / steps)


# ---------------------------------------------------------------------------------------------------------------------


def _checked(network: Network, inputs: Tensor, targets: Tensor) -> list[int]:
    """The targets as numbers, once images, targets and network fit."""
    if inputs.ndim != 4 or 0 in inputs.shape or not inputs.is_floating_point():
        raise FaithfulnessError(f"inputs: expected floats (N, C, H, W), found {inputs.dtype} {tuple(inputs.shape)}")
    if targets.shape != inputs.shape[:1] or targets.is_floating_point() or targets.dtype == torch.bool:
        raise FaithfulnessError(f"targets: expected {len(inputs)} integers, found {targets.dtype} {tuple(targets.shape)}")
    if isinstance(network, nn.Module) and any(m.training for m in network.modules() if next(m.children(), None) is None):
        raise FaithfulnessError("network: expected evaluation mode, found training mode; call network.eval()")
    return [int(t) for t in targets.tolist()]


def _checked_indices(indices: Tensor, features: int, images: int | None) -> Tensor:
    if indices.ndim not in (2, 3) or 0 in indices.shape or indices.is_floating_point():
        raise FaithfulnessError(f"indices: expected integers (R, S) or (N, R, S), found {indices.dtype} {tuple(indices.shape)}")
    if indices.ndim == 3 and len(indices) != images:
        raise FaithfulnessError(f"indices: expected one set of subsets an image, {images or 0}, found {len(indices)}")
    low, high = (int(v) for v in indices.aminmax())
    if low < 0 or high >= features:
        raise FaithfulnessError(f"indices: expected places in 0..{features - 1}, found {low}..{high}")
    return indices.long()


def _values(inputs: Tensor, baseline: str | float) -> list[float]:
    """What replaces the features of each image."""
    if isinstance(baseline, str) and baseline in BASELINES:
        return [float(v) for v in BASELINES[baseline](inputs.flatten(1)).tolist()]
    if isinstance(baseline, str) or not math.isfinite(baseline):
        raise FaithfulnessError(f"baseline: expected {', '.join(BASELINES)} or a finite number, found {baseline!r}")
    return [float(baseline)] * len(inputs)


class _Asked:
    """A network's logits of many batches, in the memory layout that suits the processor if the network bears it."""

    def __init__(self, network: Network, inputs: Tensor) -> None:
        self.network, self.layout = network, torch.contiguous_format
        if not len(inputs):
            return
        plain = self._run(inputs[:1])
        self.layout = torch.channels_last
        other = self._run(inputs[:1])
        if other.shape != plain.shape or not torch.allclose(other, plain, rtol=1e-3, atol=1e-3 * float(plain.abs().max())):
            self.layout = torch.contiguous_format

    def __call__(self, images: Tensor, target: int) -> Tensor:
        """float32 `(n, classes)`, or float64 of a double network."""
        logits = self._run(images)
        if logits.ndim != 2 or len(logits) != len(images):
            raise FaithfulnessError(f"network: expected logits ({len(images)}, classes), found {tuple(logits.shape)}")
        if not 0 <= target < logits.shape[1]:
            raise FaithfulnessError(f"targets: expected classes of 0..{logits.shape[1] - 1}, found {target}")
        return logits if logits.dtype == torch.float64 else logits.float()

    def _run(self, images: Tensor) -> Tensor:
        try:
            return self.network(laid(images, self.layout))
        except Exception:  # of foreign code, such as a view of what is not contiguous
            if self.layout == torch.contiguous_format:
                raise
            self.layout = torch.contiguous_format
            return self._run(images)


def _channels_summed(maps: Tensor, inputs: Tensor) -> Tensor:
    """`(N, H, W)` float64."""
    n, channels, height, width = inputs.shape
    if tuple(maps.shape) not in {(n, height, width), (n, 1, height, width), (n, channels, height, width)}:
        raise FaithfulnessError(f"maps: expected ({n}, [1 or {channels},] {height}, {width}), found {tuple(maps.shape)}")
    if not bool(torch.isfinite(maps).all()):
        raise FaithfulnessError("maps: found NaN or infinite values, which have no place in an order")
    maps = _able_of_float64(maps.detach()).double()
    return maps if maps.ndim == 3 else maps.sum(1)


def _able_of_float64(values: Tensor) -> Tensor:
    return values.cpu() if values.device.type == "mps" else values


def _ascending(values: Tensor) -> Tensor:
    """Sorted along the last axis, float64; numpy's sort of floats takes a fraction of the time of torch's, on a processor."""
    if values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64):
        return torch.from_numpy(np.sort(values.numpy(), axis=-1)).double()
    return values.sort(-1).values.double()
