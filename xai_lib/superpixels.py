"""Segmentations, images of the superpixels that are kept, and the probability that a network gives to such images."""

from __future__ import annotations

import time
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from xai_lib.classifiers import Classifier
from xai_lib.errors import XaiError
from xai_lib.inference import Plan, fast_network

Segmentation = Literal["quickshift", "slic"]
Fill = Literal["black", "mean"]
Masks = np.ndarray  #: bool (n, d): one row a candidate, one column a superpixel, True = kept


class SuperpixelError(XaiError):
    """A segmentation, mask or fill that does not fit the image."""


def segment(image: Tensor, method: Segmentation = "quickshift") -> Tensor:
    """Superpixels of an image.

    Parameters
    ----------
    image
        `(C, H, W)` in 0..1.
    method
        "quickshift": kernel 4, distance 200, ratio 0.2 on the 8-bit image, as the `lime` package does; "slic": about 100
        segments, sigma 5, as the E-LIME authors' earlier code does. Both look at `in_colours`.

    Returns
    -------
    Tensor
        int64 `(H, W)`, numbered 0..d-1 without gaps.
    """
    from skimage.segmentation import quickshift, slic

    pixels = (in_colours(image).cpu().permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    if method == "quickshift":
        labels = quickshift(pixels, kernel_size=4, max_dist=200, ratio=0.2, rng=42)
    elif method == "slic":
        labels = slic(pixels.astype(np.float64) / 255, n_segments=100, sigma=5)
    else:
        raise SuperpixelError(f"unknown segmentation {method!r}; use quickshift or slic")
    _, numbered = np.unique(labels, return_inverse=True)
    return torch.from_numpy(numbered.reshape(labels.shape)).to(image.device)


def in_colours(image: Tensor) -> Tensor:
    """An image `(C, H, W)` in 0..1 as three colours `(3, H, W)`, for what knows nothing else.

    One channel is grey; of two, the third colour is their mean. Of more than three, the colours are the first three principal
    components over the pixels, on the scale on which the first spans 0..1: whatever differs most is seen most (our choice).
    """
    image = image.detach().float()
    channels, size = len(image), image.shape[1:]
    if channels == 3:
        return image
    if channels == 1:
        return image.expand(3, -1, -1)
    if channels == 2:
        return torch.cat([image, image.mean(0, keepdim=True)])
    pixels = image.flatten(1).double().cpu()
    _, vectors = torch.linalg.eigh(torch.cov(pixels))
    vectors = vectors.flip(1)[:, :3]  # the largest variances first
    signs = vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()  # an eigenvector has none of its own
    found = (vectors * signs).T @ pixels
    found = found - found.amin(1, keepdim=True)
    return (found / found.max().clamp(min=1e-12)).float().view(3, *size).to(image.device)


def fill_of(image: Tensor, segments: Tensor, fill: Fill = "black") -> Tensor:
    """What removed superpixels show, `(C, H, W)`: black, or each superpixel's mean colour (lime's default)."""
    if fill == "black":
        return torch.zeros_like(image)
    if fill != "mean":
        raise SuperpixelError(f"unknown fill {fill!r}; use black or mean")
    labels, pixels = segments.cpu().flatten(), image.cpu().flatten(1).double()  # Apple's GPU has no float64
    sums = torch.zeros(len(image), int(labels.max()) + 1, dtype=torch.float64).index_add_(1, labels, pixels)
    return (sums / labels.bincount()).float()[:, labels].view_as(image).to(image.device)


def masked_images(image: Tensor, segments: Tensor, masks: Masks | Tensor, fill: Fill = "black") -> Tensor:
    """The image with only the kept superpixels: masks bool `(n, d)` -> `(n, C, H, W)` in 0..1."""
    kept = torch.as_tensor(masks, device=image.device)
    d = int(segments.max()) + 1
    if kept.ndim != 2 or kept.shape[1] != d or kept.dtype != torch.bool:
        raise SuperpixelError(f"masks: expected bool (n, {d}), found {kept.dtype} {tuple(kept.shape)}")
    return torch.where(kept[:, segments][:, None], image, fill_of(image, segments, fill))


class Improvement(NamedTuple):
    """A mask better than all before it: after how many calls and seconds of the search, its score (log-odds), itself."""

    call: int
    seconds: float
    score: float
    mask: np.ndarray


class Fitness:
    """The score of masks: the log-odds of one class on the image of the kept superpixels.

    Log-odds order masks as the probability does, and still tell them apart where the probability rounds to one. A mask
    is evaluated once; asking again costs nothing. At most `calls` masks go through the network. `masks` and `scores`
    hold everything evaluated, in the order of the calls.
    """

    def __init__(
        self,
        classifier: Classifier,
        image: Tensor,
        segments: Tensor,
        target: int,
        *,
        calls: int,
        fill: Fill = "black",
        size_weight: float = 0.0,
        plan: Plan | None = None,
    ) -> None:
        if segments.shape != image.shape[1:]:
            raise SuperpixelError(f"segments {tuple(segments.shape)} do not fit an image of {tuple(image.shape[1:])}")
        self.classifier, self.image, self.segments, self.target, self.fill = classifier, image, segments, target, fill
        self.d, self.size_weight = int(segments.max()) + 1, size_weight
        both = classifier.normalise(torch.stack([image, fill_of(image, segments, fill)]))
        self._network = fast_network(classifier, plan, both)
        self.plan = self._network.plan
        # channels last: the mask is broadcast over the fastest axis and nothing is copied afterwards
        self._shown, self._removed = both.to(self._network.dtype).permute(0, 2, 3, 1).contiguous()
        labels = segments.cpu().numpy().repeat(len(image))  # as the bytes lie: the channels of a pixel side by side
        starts = np.concatenate([[0], np.flatnonzero(np.diff(labels)) + 1])
        self._runs = labels[starts], np.diff(starts, append=len(labels))
        self._integers, integers = _INTEGERS[self._shown.element_size()]
        self._removed_bits = self._removed.view(integers)
        self._difference = self._shown.view(integers) ^ self._removed_bits
        self.budget, self.calls = calls, 0
        self._masks = np.zeros((calls, self.d), dtype=bool)
        self._scores = np.full(calls, -np.inf)
        self._seconds, self._started = np.zeros(calls), time.perf_counter()
        self._index: dict[bytes, int] = {}

    @property
    def left(self) -> int:
        """Calls that may still be made."""
        return self.budget - self.calls

    @property
    def masks(self) -> Masks:
        """Every mask evaluated, bool `(calls, d)`."""
        return self._masks[: self.calls]

    @property
    def scores(self) -> np.ndarray:
        """Their log-odds, float64 `(calls,)`."""
        return self._scores[: self.calls]

    def unseen(self, masks: Masks) -> Masks:
        """Those of `masks` that were not evaluated yet, each once, in order."""
        fresh: dict[bytes, int] = {}
        for i, key in enumerate(_keys(masks)):
            if key not in self._index:
                fresh.setdefault(key, i)
        return masks[list(fresh.values())]

    def __call__(self, masks: Masks) -> np.ndarray:
        """Log-odds `(n,)` of the masks; -inf for those that the budget did not allow any more."""
        fresh = self.unseen(masks)[: self.left]
        if len(fresh):
            self._evaluate(fresh)
        found = (self._index.get(key, -1) for key in _keys(masks))
        return np.array([self._scores[i] if i >= 0 else -np.inf for i in found])

    def _evaluate(self, masks: Masks) -> None:
        """Send masks through the network; what can wait until the last batch waits, as each small step between two
        forward passes finds the processor's caches cold."""
        first, last, step = self.calls, self.calls + len(masks), self.plan.inner_batch
        logits = []
        for start in range(0, len(masks), step):
            shown = self._shown_pixels(masks[start : start + step])
            logits.append(self._network.logits(shown.permute(0, 3, 1, 2)).cpu())
            self._seconds[first + start : last] = time.perf_counter() - self._started
        self._masks[first:last] = masks
        odds = self.classifier.log_odds(torch.cat(logits).double())  # the surrogate is fitted in float64
        self._scores[first:last] = odds[:, self.target].numpy()
        if self.size_weight:
            self._scores[first:last] -= self.size_weight * masks.mean(1)
        self._index.update((key, first + i) for i, key in enumerate(_keys(masks)))
        self.calls = last

    def _shown_pixels(self, masks: Masks) -> Tensor:
        """The normalised images of the kept superpixels, `(n, H, W, C)`, made where the network is."""
        if self.segments.device.type != "cpu":
            kept = torch.from_numpy(masks).to(self.segments.device)
            return torch.where(kept[:, self.segments].unsqueeze(-1), self._shown, self._removed)
        # on the processor: all bits set where kept, then removed ^ (kept & (shown ^ removed)), exact and in place. A row of
        # a superpixel is filled at once; all of it costs an eighth of the broadcast choice above
        labels, lengths = self._runs
        whole = np.negative(masks, dtype=self._integers)  # all bits of -1 are set
        bits = torch.from_numpy(np.repeat(whole[:, labels], lengths, axis=1)).view(-1, *self._shown.shape)
        return bits.bitwise_and_(self._difference).bitwise_xor_(self._removed_bits).view(self._network.dtype)

    def probabilities(self, masks: Masks) -> np.ndarray:
        """Probabilities of the target by the untouched network, one image at a time, float32 `(n,)`."""
        found = self.classifier.probabilities_of(self._exact(masks))[:, self.target]
        return found.float().cpu().numpy()

    @torch.no_grad()
    def _exact(self, masks: Masks) -> Tensor:
        images = masked_images(self.image, self.segments, masks, self.fill)
        return torch.cat([self.classifier(image[None]) for image in images])

    def trajectory(self) -> list[Improvement]:
        """The masks that beat all before them, in the order of the calls."""
        if not self.calls:
            return []
        best = np.maximum.accumulate(self.scores)
        steps = [0, *(np.flatnonzero(best[1:] > best[:-1]) + 1)]
        return [Improvement(int(i) + 1, float(self._seconds[i]), float(self.scores[i]), self.masks[i]) for i in steps]

    def first_above(self, probability: float) -> Improvement | None:
        """The first improvement whose float32 probability by the untouched network exceeds `probability`, or None."""
        steps = (step for step in self.trajectory() if self.probabilities(step.mask[None])[0] > probability)
        return next(steps, None)

    def map_of(self, values: np.ndarray) -> Tensor:
        """One value a superpixel `(d,)` as a map `(H, W)`, float32."""
        return torch.as_tensor(values, dtype=torch.float32, device=self.segments.device)[self.segments]

    def outcome(self, judged: int = 4) -> dict[str, Any]:
        """The best mask found: the `judged` masks with the highest scores are compared again by the untouched
        network.

        `kept`: bool (d,); `probability`: the target's; `calls`: search and judging; `trajectory`: as the
        method of that name; `segments`: (H, W); `inference`: how the search's forward passes were made.
        """
        leading = self.masks[np.argsort(-self.scores, kind="stable")[:judged]]
        logits = self._exact(leading)
        odds = self.classifier.log_odds(logits)[:, self.target].double().cpu().numpy()
        best = int(np.argmax(odds - self.size_weight * leading.mean(1)))
        return {
            "segments": self.segments.cpu(),
            "kept": leading[best],
            "probability": float(self.classifier.probabilities_of(logits)[best, self.target]),
            "calls": self.calls + len(leading),
            "trajectory": self.trajectory(),
            "inference": self._network.declaration(),
        }


_INTEGERS: dict[int, tuple[Any, torch.dtype]] = {
    2: (np.int16, torch.int16), 4: (np.int32, torch.int32), 8: (np.int64, torch.int64),
}  # fmt: skip


def _keys(masks: Masks) -> list[bytes]:
    raw, d = masks.tobytes(), masks.shape[1]
    return [raw[i : i + d] for i in range(0, len(raw), d)]
