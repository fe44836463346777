"""The evaluation protocol of ADVISE: what is left of a picture and of a prediction under a saliency map, in one number.

Dehshibi et al. 2022, arXiv 2203.01289, eqs. 10 to 15, and the program of its authors, which differs: see `Definition`. The
numbers reward large masks: a map of ones has the best AVX there is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

from xai_lib.classifiers import Classifier
from xai_lib.errors import XaiError
from xai_lib.inference import FLOAT32, fast_network
from xai_lib.metrics.similarity import Reference

Definition = Literal["code", "paper"]
"""`code`: drop to the largest probability of any class, SSIM with a window that also runs across colours, FSIM with chroma.
`paper`: drop of the explained class, SSIM a colour at a time, FSIM of the luminance."""
Mask = Literal["binary", "soft"]
"""`binary`: a pixel is kept where the map is at least 0.5 (authors' code: a cast to whole numbers). `soft`: the map itself."""

INSIGNIFICANT = 0.55  #: class sensitivities up to this, in absolute value, pass the check (authors' code; the text's are lost)


class MetricError(XaiError):
    """Maps, classes or a definition that the protocol cannot judge."""


@dataclass(frozen=True)
class Scores:
    """What the protocol says of one map; the last five after penalties, `before` without."""

    hit: bool
    """The explained class is among the five most probable ones of the masked picture (eq. 11)."""
    class_sensitivity: float
    """Pearson correlation of the maps of the two classes (eq. 10), -1..1; 0 where it is not defined, as in the code."""
    passes: bool
    """The class sensitivity is defined and within 0.55 of zero."""
    average_drop: float
    """Relative drop of the probability, 0..1, less is better (eq. 12)."""
    ssim: float
    """Structural similarity of masked and full picture, -1..1, more is better (eq. 13)."""
    fsim: float
    """Feature similarity of the two, 0..1, more is better; 0 for an all-black picture, where it is not defined (our choice)."""
    mse: float
    """Mean squared error of the two over 255 squared, 0..1, less is better (eq. 14)."""
    avx: float
    """Harmonic mean of 1 - average drop, SSIM, FSIM and 1 - MSE, 0..1, more is better (eq. 15)."""
    before: dict[str, float]
    """average_drop, ssim, fsim, mse and avx before penalties."""


@torch.no_grad()
def evaluate(
    classifier: Classifier,
    image: Tensor,
    maps: Tensor,
    second_maps: Tensor | None,
    targets: Sequence[int],
    *,
    definition: Definition = "code",
    mask: Mask = "binary",
) -> list[Scores]:
    """Judge `maps` `(G, H, W)` of one image `(C, H, W)` in 0..1 for the class `targets[0]`.

    Maps are in 0..1 but for what enlarging overshoots. `second_maps` `(G, H, W)`: the same for the class `targets[1]`; None
    where there are none, and then the class sensitivity is not defined. The picture is rounded to 256 levels first, as the
    authors' is. Raises `MetricError` for other shapes and values, and for classes that the classifier does not have.
    """
    _check(classifier, image, maps, second_maps, targets)
    if definition not in get_args(Definition) or mask not in get_args(Mask):
        raise MetricError(f"definition: code or paper; mask: binary or soft; found {definition!r} and {mask!r}")
    picture = (image * 255).round()
    pictures = masked_pictures(picture, maps, mask)
    full, *left = _probabilities(classifier, torch.cat([picture[None], pictures])).unbind()
    reference = _reference(picture.to(torch.uint8).cpu().numpy().tobytes(), tuple(picture.shape), picture.device)
    own, found = float(full[targets[0]]), []
    for g, probabilities in enumerate(left):  # one picture at a time: a map's scores do not depend on its company
        shown, code = pictures[g : g + 1], definition == "code"
        fsim = float(reference.fsim(shown, chroma=code).nan_to_num(0))
        rest = float(probabilities.max() if code else probabilities[targets[0]])
        values = (average_drop(own, rest), float(reference.ssim(shown, volume=code)), fsim, float(reference.mse(shown)))
        sensitivity = math.nan if second_maps is None else class_sensitivity(maps[g], second_maps[g])
        hit = targets[0] in probabilities.topk(min(5, len(probabilities))).indices.tolist()
        found.append(penalised(values, hit, sensitivity, abs(own - rest)))
    return found


def masked_pictures(picture: Tensor, maps: Tensor, mask: Mask = "binary") -> Tensor:
    """A picture `(C, H, W)` of whole numbers 0..255 under each map `(G, H, W)`, `(G, C, H, W)`, again whole numbers.

    NaN in a map hides its pixel, as the authors' cast to whole numbers does.
    """
    kept = (maps >= 0.5).to(picture.dtype) if mask == "binary" else maps.nan_to_num(0).clamp(0, 1)
    return (picture * kept[:, None]).round()


def class_sensitivity(one: Tensor, two: Tensor) -> float:
    """Pearson correlation of two maps of the same shape (eq. 10), NaN where one is constant."""
    a, b = (m.double().flatten() - m.double().mean() for m in (one, two))
    norm = float(a.norm() * b.norm())
    return float(a @ b) / norm if norm > 0 and one.amax() > one.amin() and two.amax() > two.amin() else math.nan


def average_drop(before: float, after: float) -> float:
    """Relative drop of a probability, 0 where it rises (eq. 12, of one image)."""
    return max(0.0, before - after) / before if before > 0 else 0.0


def harmonic(drop: float, ssim: float, fsim: float, mse: float) -> float:
    """AVX: harmonic mean of 1 - drop, SSIM, FSIM and 1 - MSE (eq. 15); 0 as soon as one of them is not above 0."""
    terms = (1 - drop, ssim, fsim, 1 - mse)
    return 4 / sum(1 / t for t in terms) if min(terms) > 0 else 0.0


def penalised(values: tuple[float, float, float, float], hit: bool, sensitivity: float, change: float) -> Scores:
    """The scores of one map from average drop, SSIM, FSIM and MSE.

    With a hit they stay. Without one, all four are multiplied by 1 - `change` (of the probability) if the sensitivity
    passes its check, which makes drop and MSE *better*; otherwise they get their worst values (text and authors' code).
    """
    passes = abs(sensitivity) <= INSIGNIFICANT  # false for NaN
    final = values
    if not hit:
        final = tuple(v * (1 - change) for v in values) if passes else (1.0, 0.0, 0.0, 1.0)  # type: ignore[assignment]
    names = ("average_drop", "ssim", "fsim", "mse")
    before = dict(zip(names, values, strict=True)) | {"avx": harmonic(*values)}
    return Scores(hit, 0.0 if math.isnan(sensitivity) else sensitivity, passes, *final, harmonic(*final), before)


def _probabilities(classifier: Classifier, pictures: Tensor) -> Tensor:
    """Probabilities `(n, classes)` by the copy of `xai_lib.inference` in float32, which is faster and equal to six digits; its
    batches are of one size, so that a picture's row does not depend on its company."""
    batches = [classifier.normalise(batch) for batch in pictures.div(255).split(FLOAT32.inner_batch)]
    network = fast_network(classifier, FLOAT32, batches[0])
    return classifier.probabilities_of(torch.cat([network.logits(batch) for batch in batches]))


@lru_cache(maxsize=8)
def _reference(levels: bytes, shape: tuple[int, ...], device: torch.device) -> Reference:
    """One photograph is the reference of every method's maps; its parts are as dear as those of a masked picture."""
    return Reference(torch.frombuffer(bytearray(levels), dtype=torch.uint8).view(shape).to(device))


def _check(classifier: Classifier, image: Tensor, maps: Tensor, second_maps: Tensor | None, targets: Sequence[int]) -> None:
    if image.ndim != 3 or len(image) != classifier.channels:
        raise MetricError(f"image: expected ({classifier.channels}, H, W), found {tuple(image.shape)}")
    low, high = float(image.amin()), float(image.amax())
    if not -1e-3 <= low <= high <= 1 + 1e-3:  # what resizing may overshoot; NaN is refused
        raise MetricError(f"image: expected values 0..1, not yet normalised, found {low:.3g}..{high:.3g}")
    for name, m in (("maps", maps), ("second_maps", second_maps)):
        if m is not None and (m.ndim != 3 or m.shape[1:] != image.shape[1:] or len(m) != len(maps)):
            wanted = f"({'G' if name == 'maps' else len(maps)}, {image.shape[1]}, {image.shape[2]})"
            raise MetricError(f"{name}: expected {wanted}, one map a row, found {tuple(m.shape)}")
    if second_maps is not None and classifier.classes == 1:
        raise MetricError(
            "second_maps: the class sensitivity compares the maps of two classes, and this network has one output; pass None"
        )
    if len(targets) == 0 or not 0 <= targets[0] < classifier.classes:
        raise MetricError(f"targets: expected classes below {classifier.classes}, the explained one first, found {targets}")
