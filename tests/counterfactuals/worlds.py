"""A small generator and a small classifier of three classes: enough for the mechanics of the search."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xai_lib import generators
from xai_lib.classifiers import Classifier
from xai_lib.generators import Generator
from xai_lib.images import View
from xai_lib.training.batch_statistics import fill


def generator(seed: int = 0) -> Generator:
    """64 px, z of 8, three classes."""
    model = generators.build(generators.small_config(channel_width=4, z_dim=8, class_embed_dim=8, num_classes=3), seed)
    with torch.no_grad():
        model.embeddings.weight.mul_(3)
    fill(model, batch=32)
    return Generator(model)


def classifier(seed: int = 0, size: int = 64) -> Classifier:
    """Three classes, features 8x8."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 5, 4, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3, 2, 1), nn.ReLU(),
            nn.Flatten(), nn.Linear(6 * (size // 8) ** 2, 3),
        )  # fmt: skip
        network[-1].weight.data *= 8
    return Classifier(network, name="small", view=View(size, size), class_names=["bear", "poodle", "gibbon"])


def picture(seed: int = 1, size: int = 64) -> Tensor:
    """`(1, 3, size, size)`, smooth."""
    rough = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(rough, size=size, mode="bicubic").clamp(0, 1)
