"""The critic of the small BigGAN: residual, spectrally normalised, with a projection head and an auxiliary classifier.

Projection: Miyato, Koyama, ICLR 2018. Spectral norm: Miyato et al., ICLR 2018. The auxiliary classifier (Odena et al., ICML 2017)
beside it is our choice: in few steps it does more for pictures being of the class that was asked for than the projection alone.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import spectral_norm

WIDTHS = (32, 48, 96, 128)


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Module:
    return spectral_norm(nn.Conv2d(inputs, outputs, size, stride, (size - stride + 1) // 2))


class _Down(nn.Module):
    """Residual block that halves the size; the second convolution works at the smaller one, which is cheaper."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = _convolution(inputs, outputs, 3), _convolution(outputs, outputs, 3)
        self.skip = _convolution(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = self.second(F.relu(F.avg_pool2d(self.first(F.relu(x)), 2)))
        return found + self.skip(F.avg_pool2d(x, 2))


class Discriminator(nn.Module):
    """Pictures `(N, 3, 64, 64)` in -1..1 and labels `(N,)` go in; out come scores `(N,)` and class logits `(N, classes)`."""

    def __init__(self, classes: int, widths: tuple[int, ...] = WIDTHS, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.stem = _convolution(3, widths[0], 4, 2)
            self.blocks = nn.Sequential(*[_Down(a, b) for a, b in pairwise(widths)])
            self.score = spectral_norm(nn.Linear(widths[-1], 1))
            self.embedding = spectral_norm(nn.Embedding(classes, widths[-1]))
            self.classify = spectral_norm(nn.Linear(widths[-1], classes))
            for each in self.modules():
                if isinstance(each, nn.Conv2d | nn.Linear | nn.Embedding):
                    nn.init.orthogonal_(each.get_parameter("weight_orig"))

    def forward(self, pictures: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        found = F.relu(self.blocks(self.stem(pictures))).sum((2, 3))
        score = self.score(found)[:, 0] + (self.embedding(labels) * found).sum(1)
        return score, self.classify(found)
