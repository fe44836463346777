"""What the embedded networks learn from: critters drawn once, and varied a little each time they are seen."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from xai_lib import critters
from xai_lib.training.loop import Samples

TRAIN, VALIDATION, TEST = 1_000_000, 1_000_001, 1_000_002
"""Seeds of drawn sets; notebooks draw from small seeds, so that no critter there was learnt from."""


class Varied(Samples):
    """Samples mirrored by chance, moved by at most `SHIFT` pixels (a whole batch alike), and up to 10 % brighter or darker.

    No class of critters depends on left and right. Draws from the global generator, which `training.train` seeds.
    """

    SHIFT = 3

    def batch(self, which: Tensor) -> Tensor:
        """As `Samples.batch`, varied."""
        found = super().batch(which)
        found = torch.where(torch.rand(len(found), 1, 1, 1) < 0.5, found.flip(-1), found)
        found = found * (0.9 + 0.2 * torch.rand(len(found), 1, 1, 1))
        top, left = torch.randint(0, 2 * self.SHIFT + 1, (2,)).tolist()
        size = found.shape[-1]
        moved = F.pad(found, (self.SHIFT,) * 4, mode="reflect")[..., top : top + size, left : left + size]
        return moved.clamp(0, 1).contiguous(memory_format=torch.channels_last)


def drawn(count: int, seed: int, size: int = 64, cache: str | Path | None = None, progress: bool = True) -> Samples:
    """`count` critters, the classes in turn, as bytes; 3 to 5 ms each on one core at 64 pixels.

    `cache`: a folder where a set that was drawn is kept, and found again.
    """
    file = Path(cache) / f"critters-{seed}-{count}-{size}.npz" if cache else None
    labels = torch.arange(count) % len(critters.CLASSES)
    if file and file.is_file():
        with np.load(file) as kept:
            return Samples(torch.from_numpy(kept["images"]), labels)
    images = torch.empty(count, 3, size, size, dtype=torch.uint8)
    for part in tqdm(torch.arange(count).split(250), desc="drawing", disable=not progress, leave=False):
        found = critters.batch(labels[part].tolist(), part.tolist(), seed=seed, size=size).images
        images[part] = found.mul(255).round().to(torch.uint8)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_name(f"{os.getpid()}-{file.name}")
        np.savez(beside, images=images.numpy())
        beside.replace(file)
    return Samples(images, labels)
