"""Batch norm for the package's BigGAN, which was written for inference and always uses stored statistics.

`learning` makes it normalise by the batch, with gradients through mean and variance; `fill` stores statistics afterwards, one
row for each truncation, as the package reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xai_lib.generators import noise

if TYPE_CHECKING:
    from pytorch_pretrained_biggan import BigGAN


@contextmanager
def learning(model: BigGAN) -> Iterator[None]:
    """Inside, every batch norm uses its batch (biased variance, as when learning), and `truncation` has no effect.

    Of the last convolution only the three channels that are seen are computed. On leaving, the package's own forwards are back.
    """
    changed: list[Any] = [m for m in model.modules() if hasattr(m, "running_means")]
    for module in changed:
        module.forward = _by_batch.__get__(module)
    last = model.generator.conv_to_rgb
    last.forward = _first_three.__get__(last)
    try:
        yield
    finally:
        for module in [*changed, last]:
            del module.forward


def _by_batch(self: Any, x: Tensor, truncation: float, condition_vector: Tensor | None = None) -> Tensor:
    if not self.conditional:
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
    scale, shift = 1 + self.scale(condition_vector), self.offset(condition_vector)
    plain = F.batch_norm(x, None, None, training=True, eps=self.eps)
    return torch.addcmul(shift[..., None, None], plain, scale[..., None, None])


def _first_three(self: Any, x: Tensor) -> Tensor:
    return F.conv2d(x, self.weight[:3], self.bias[:3], padding=1)


@torch.no_grad()
def fill(model: BigGAN, seed: int = 0, batch: int = 256) -> None:
    """Store mean and biased variance of each layer for each truncation i / 50, from `batch` noises of mixed classes.

    Row 0, which no truncation reads alone, is a copy of row 1. The model is left in evaluation mode.
    """
    model.eval()
    config, norms = model.config, [m for m in model.modules() if hasattr(m, "running_means")]
    hooks = [norm.register_forward_pre_hook(_store) for norm in norms]
    classes = F.one_hot(torch.arange(batch) % config.num_classes, config.num_classes).float()
    try:
        with learning(model):
            for row in range(config.n_stats - 1, 0, -1):
                for norm in norms:
                    norm.filled_row = row
                model(noise(batch, config.z_dim, seed + row, row / (config.n_stats - 1)), classes, 1.0)
    finally:
        for hook in hooks:
            hook.remove()
    for norm in norms:
        norm.running_means[0], norm.running_vars[0] = norm.running_means[1], norm.running_vars[1]
        del norm.filled_row


def _store(norm: Any, inputs: tuple[Any, ...]) -> None:
    x: Tensor = inputs[0]
    norm.running_means[norm.filled_row] = x.mean((0, 2, 3))
    norm.running_vars[norm.filled_row] = x.var((0, 2, 3), correction=0)
