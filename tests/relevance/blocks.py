"""Networks around one block of tokens or maps, and how two of them are held against each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.relevance.networks import pixels, small
from xai_lib.explainers import lrp
from xai_lib.relevance import Ledger, Recording

X = pixels(2, 8)
COMPOSITES = [
    lrp.epsilon(1e-12), lrp.epsilon_plus(epsilon=1e-12), lrp.alpha_beta(2.0, bias="spread"), lrp.alpha_beta(1.0),
    lrp.epsilon_gamma_box(-6.0, 6.0, epsilon=1e-12),
]  # fmt: skip
D = 6  #: width of a token


def start_like(recording: Recording, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(3, *recording.logits.shape, generator=rng, dtype=torch.float64)


def tokens(m: Any, x: Tensor) -> Tensor:
    """`(N, 16, D)` from patches of two pixels."""
    return m[0](x).flatten(2).transpose(1, 2)


def network(middle: Callable[[Any, Tensor], Tensor], *parts: nn.Module) -> Any:
    """Patches, `middle`, mean over tokens, classes."""
    made = small(
        lambda m, x: m[1](middle(m, tokens(m, x)).mean(1)), nn.Conv2d(3, D, 2, 2), nn.Linear(D, 5), *parts
    )
    for module in made.modules():
        if isinstance(module, nn.LayerNorm | nn.GroupNorm):
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(1))
                module.bias.normal_(0, 0.2, generator=torch.Generator().manual_seed(2))
        if isinstance(module, nn.MultiheadAttention) and module.in_proj_bias is not None:
            with torch.no_grad():
                module.in_proj_bias.normal_(0, 0.2, generator=torch.Generator().manual_seed(2))
    return made


def same(one: nn.Module, two: nn.Module, tolerance: float = 1e-8) -> None:
    """The same logits, the same relevance from any start, nothing lost."""
    for composite in COMPOSITES:
        found = lrp.check_equivalence(one, two, composite, X)
        assert found.logits < 1e-12 and float(found.maps.max()) < tolerance, composite
        recordings = Recording(one, X), Recording(two, X)
        start, ledgers = start_like(recordings[0]), (Ledger(), Ledger())
        maps = [
            lrp.propagate(r, composite, start, ledger=k) for r, k in zip(recordings, ledgers, strict=True)
        ]
        assert float((maps[0] - maps[1]).abs().max() / maps[0].abs().max()) < tolerance
        if composite is COMPOSITES[2]:
            for found_, ledger in zip(maps, ledgers, strict=True):
                total = found_.flatten(2).sum(2) + torch.as_tensor(ledger.biases)
                torch.testing.assert_close(total, start.sum(2), rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# By hand


def z_rule(x: Tensor, w: Tensor, b: Tensor | float, r: Tensor) -> Tensor:
    """LRP-0 of one vector, `w` `(units, inputs)`, unit by unit."""
    found = torch.zeros_like(x)
    for j in range(len(w)):
        z = float(w[j] @ x) + (float(b[j]) if isinstance(b, Tensor) else b)
        found += w[j] * x * r[j] / z
    return found
