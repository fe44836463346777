"""One photograph before one network: what is erased of it, and what the network says then. No widgets."""

from __future__ import annotations

import torch
from torch import Tensor

from xai_lib.classifiers import Classifier, Prediction
from xai_lib.superpixels import Fill, Segmentation, fill_of, segment


class Scene:
    """An image `(3, H, W)` in 0..1, of which superpixels and the most relevant pixels can be erased.

    What is erased shows the fill of `superpixels.fill_of`. `erased`: the numbers of the superpixels that are.
    """

    def __init__(
        self, classifier: Classifier, image: Tensor, *, fill: Fill = "black", segmentation: Segmentation = "quickshift"
    ) -> None:
        self.classifier, self.image, self.fill = classifier, image, fill
        self.segments = segment(image, segmentation)
        self.erased: set[int] = set()
        self.top = torch.zeros_like(self.segments, dtype=torch.bool)  #: pixels erased for their relevance
        self.original = self._probabilities(image)  #: of the whole image, `(classes,)` float32

    def superpixel_at(self, x: int, y: int) -> int:
        """The number of the superpixel at column `x`, row `y`; coordinates beyond the edge count as on it."""
        height, width = self.segments.shape
        return int(self.segments[min(max(y, 0), height - 1), min(max(x, 0), width - 1)])

    def toggle(self, superpixel: int) -> None:
        """Erase a superpixel, or restore it."""
        self.erased ^= {superpixel}

    def erase_top(self, share: float, relevance: Tensor) -> None:
        """Erase the `share` (0..1) of all pixels with the highest values of a map `(H, W)`; 0 restores them.

        Signed maps count from the largest positive value. Among equal values, as maps of superpixels have, the upper left
        goes first.
        """
        order = relevance.detach().cpu().flatten().argsort(descending=True, stable=True)
        self.top = torch.zeros(len(order), dtype=torch.bool)
        self.top[order[: round(share * len(order))]] = True
        self.top = self.top.view_as(self.segments)

    def restore(self) -> None:
        """Nothing is erased any more."""
        self.erased.clear()
        self.top = torch.zeros_like(self.top)

    def strongest(self, relevance: Tensor) -> int:
        """The superpixel with the largest mean of a map `(H, W)`."""
        labels = self.segments.flatten()
        sums = torch.zeros(int(labels.max()) + 1, dtype=torch.float64).index_add_(0, labels, relevance.double().cpu().flatten())
        return int((sums / labels.bincount()).argmax())

    @property
    def mask(self) -> Tensor:
        """True where a pixel is erased, `(H, W)`."""
        return torch.isin(self.segments, torch.tensor(sorted(self.erased), dtype=torch.int64)) | self.top

    @property
    def picture(self) -> Tensor:
        """The image as the network sees it now, `(3, H, W)`."""
        return torch.where(self.mask, fill_of(self.image, self.segments, self.fill), self.image)

    def probabilities(self) -> Tensor:
        """Of all classes for `picture`, `(classes,)` float32."""
        return self._probabilities(self.picture)

    def leading(self, k: int = 5) -> list[Prediction]:
        """The `k` most probable classes of the whole image, best first."""
        values, indices = self.original.topk(min(k, len(self.original)))
        pairs = zip(indices.tolist(), values.tolist(), strict=True)
        return [Prediction(i, self.classifier.class_name(i), p) for i, p in pairs]

    def _probabilities(self, image: Tensor) -> Tensor:
        return self.classifier.probabilities(image[None].to(self.classifier.device))[0].cpu()
