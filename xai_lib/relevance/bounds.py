"""Bounds of the pixels carried to the first layer, for the rules of pixels, through what lies before it.

Images that are scaled, normalised, cropped, padded, expanded to more channels or passed through an activation inside the
network reach the first convolution elementwise, each value by a function that never turns back. So two more passes, of
the least and of the largest image, stopped at that layer, give its bounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xai_lib.relevance.operations import Operation, Tape
from xai_lib.relevance.recorder import Recorder
from xai_lib.relevance.rules import RelevanceError, Value, ZBox

if TYPE_CHECKING:
    from xai_lib.relevance.recording import Recording

WAY_OUT = (
    "the rule of the pixels (z^B) needs bounds of what that layer sees. Way out: no rule of its own for the pixels, "
    'pixels=False for lrp, pixels="gamma" for lrp_composite, zbox=None in a composite; for rap and evo_lrp a network that sees '
    "the pixels directly"
)

WORDS = {
    "pool": "pooling or a mean", "max": "max pooling", "sum": "a sum of branches", "product": "a product of branches",
    "mixing": "a product of matrices", "selection": "a choice among values",
}  # fmt: skip


class Reached(Exception):  # no error: the end of a pass
    """The first layer, and what it sees."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x


class Until(Recorder):
    """A pass that ends before the first layer."""

    def meet(self, kind: str, function: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> Tensor:
        if kind == "linear":
            raise Reached(inputs[0].detach())
        return super().meet(kind, function, args, kwargs, inputs)


class Blank(Tape):
    """A tape that nothing goes back through."""

    def back(self, operation: Operation, r: Tensor) -> list[Tensor | None]:
        raise NotImplementedError


def check(recording: Recording) -> None:
    """Raise `RelevanceError` unless the first layer sees the pixels one by one."""
    obstacles = [o for o in recording.pixels if not o.monotone]
    if obstacles:
        shape = tuple(recording.linear[0].inputs[0].shape)
        found = WORDS.get(obstacles[0].kind, "a function that rises and falls")
        raise RelevanceError(
            f"the first layer of {type(recording.network).__name__} sees {shape} made of the inputs "
            f"{tuple(recording.inputs.shape)} by {found}, which does not act on each pixel alone: {WAY_OUT}"
        )


def carried(recording: Recording, rule: ZBox) -> ZBox:
    """The rule with the bounds of what the first layer sees, in place of those of the pixels."""
    ends = [_reaching(recording, v) for v in (rule.low, rule.high)]
    low, high = torch.minimum(*ends), torch.maximum(*ends)
    x = recording.linear[0].inputs[0]
    slack = 1e-5 * (high - low).abs().max()
    inside = all(bool(c.all()) for c in (recording.inputs >= _like(recording, rule.low) - slack,
                                         recording.inputs <= _like(recording, rule.high) + slack))  # fmt: skip
    if inside and not bool(((x >= low - slack) & (x <= high + slack)).all()):
        raise RelevanceError(
            f"what lies before the first layer of {type(recording.network).__name__} depends on the image: {WAY_OUT}"
        )
    return ZBox(low, high, rule.stabiliser)


def _like(recording: Recording, value: Value) -> Tensor:
    x = recording.inputs
    try:
        return torch.as_tensor(value, dtype=x.dtype, device=x.device).expand(x.shape)
    except RuntimeError:
        shape = tuple(torch.as_tensor(value).shape)
        raise RelevanceError(f"zbox: a bound of shape {shape} does not broadcast to inputs {tuple(x.shape)}") from None


def _reaching(recording: Recording, value: Value) -> Tensor:
    blank = Blank(recording.network, {})
    blank.apart = recording.apart
    try:
        recording.run(_like(recording, value).clone(), Until(blank))
    except Reached as end:
        return end.x
    raise RelevanceError(f"{type(recording.network).__name__}: another pass does not reach the first layer: {WAY_OUT}")
