"""Networks whose answers are known, and the real one, for the tests of this package."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xai_lib.classifiers import Classifier
from xai_lib.images import View


class Planted(nn.Module):
    """Class 1 wants the squares of a checkerboard shown and the others hidden: its best mask is known.

    The picture is a grid of `side` x `side` squares of 8 pixels; the logit of class 1 is the sum over squares of
    +mean brightness (wanted) or -mean brightness (unwanted), times `gain`; class 0 has the logit 0.
    """

    def __init__(self, side: int = 4, gain: float = 4.0) -> None:
        super().__init__()
        row = torch.arange(side)
        self.register_buffer("wanted", ((row[:, None] + row) % 2 == 0).float() * 2 - 1)
        self.pool = nn.AvgPool2d(8)
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        squares = self.pool(x.mean(1, keepdim=True))[:, 0]
        one = self.gain * (squares * self.wanted).flatten(1).mean(1) * self.wanted.numel() ** 0.5
        return torch.stack([torch.zeros_like(one), one], 1)


def planted(side: int = 4) -> tuple[Classifier, Tensor, Tensor]:
    """The classifier, a white picture `(3, H, W)`, and its squares as segments `(H, W)`."""
    size = 8 * side
    classifier = Classifier(Planted(side), name="planted", mean=(0.0,) * 3, std=(1.0,) * 3, view=View(size, size))
    row = torch.arange(size) // 8
    return classifier, torch.ones(3, size, size), row[:, None] * side + row


def tiny(seed: int = 0) -> Classifier:
    """A small convolutional network with batch norms, 5 classes, for pictures of 32 pixels."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 5),
        )  # fmt: skip
        for module in network:
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean = torch.randn(8) * 0.3
                module.running_var = torch.rand(8) + 0.5
        network[-1].weight.data *= 6
    return Classifier(network, name="tiny", view=View(32, 36))


def picture(seed: int = 0, size: int = 32) -> Tensor:
    """A smooth random picture `(3, size, size)` in 0..1, so that segmentations find more than one superpixel."""
    rough = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(rough, size=size, mode="bicubic").clamp(0, 1)[0]
