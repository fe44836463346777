"""The linear parts of a network as relevance sees them: a map without its bias, its transpose, and both by sign of weight.

Inputs are `(N, ...)`. What comes back from above may hold several candidates an image, `(P, N, ...)`; products with what
belongs to the image alone broadcast over them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Sign = Literal[0, 1, -1]
"""Which weights: all, the positive ones, the negative ones (the others count as zero)."""


class Layer(ABC):
    """A linear map; `bias` `(units,)` or None is what the network adds to it, `name` is the network's own."""

    name: str = ""
    bias: Tensor | None = None

    @abstractmethod
    def forward(self, x: Tensor, sign: Sign = 0) -> Tensor:
        """The map without bias, of `(N, ...)`."""

    @abstractmethod
    def back(self, g: Tensor, like: Tensor, sign: Sign = 0) -> Tensor:
        """The transposed map of `(P, N, ...)`; `like` `(N, ...)` is the input, for its shape."""

    def forward_by_sign(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The map of the positive weights and that of the negative ones."""
        return self.forward(x, 1), self.forward(x, -1)

    def back_both(self, g: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """The transposed map of the positive weights and that of the negative ones."""
        return self.back(g, like, 1), self.back(g, like, -1)

    def back_by_sign(self, above: Tensor, below: Tensor | None, like: Tensor) -> Tensor:
        """`above` through the positive weights plus `below`, if any, through the negative ones."""
        found = self.back(above, like, 1)
        return found if below is None else found.add_(self.back(below, like, -1))

    @abstractmethod
    def real_inputs(self, x: Tensor) -> Tensor:
        """How many inputs each unit has, `(1, ...)`; zero padding does not count."""

    @abstractmethod
    def spread(self, g: Tensor, like: Tensor) -> Tensor:
        """The transpose of the map whose weights are all one, of `(P, N, ...)`."""

    def bias_like(self, z: Tensor) -> Tensor:
        """The bias, so that it broadcasts against the layer's output."""
        if self.bias is None:
            return z.new_zeros(())
        return self.bias.view(-1, *[1] * (z.ndim - 2)) if z.ndim > 2 else self.bias


@dataclass
class Weighted(Layer):
    """A layer with weights of its own. They may be rescaled by a batch norm that follows (`fuse`)."""

    weight: Tensor
    bias: Tensor | None
    name: str = ""
    fused: bool = field(default=False, init=False)
    parts: dict[Sign, Tensor] = field(default_factory=dict, init=False)

    def fuse(self, scale: Tensor, shift: Tensor) -> None:
        """Take in a batch norm `scale * z + shift`, one value a unit."""
        self.weight = self.weight * scale.view(-1, *[1] * (self.weight.ndim - 1))
        self.bias = shift if self.bias is None else self.bias * scale + shift
        self.fused = True
        self.parts.clear()

    def of_sign(self, sign: Sign) -> Tensor:
        """The weights of that sign; made once."""
        if sign == 0:
            return self.weight
        if sign not in self.parts:
            self.parts[sign] = of_sign(self.weight, sign)
        return self.parts[sign]


def of_sign(weight: Tensor, sign: Sign) -> Tensor:
    return weight.clamp(min=0) if sign > 0 else weight.clamp(max=0)


@dataclass
class Convolution(Weighted):
    """A two-dimensional convolution; `pad` (left, right, top, bottom) includes what was padded right before it."""

    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def forward(self, x: Tensor, sign: Sign = 0) -> Tensor:
        return self._convolve(x, self.of_sign(sign))

    def back(self, g: Tensor, like: Tensor, sign: Sign = 0) -> Tensor:
        return self._transposed(g, like, self.of_sign(sign), self.groups)

    def back_both(self, g: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        if self.groups > 1:
            return super().back_both(g, like)
        both = torch.cat([self.of_sign(1), self.of_sign(-1)], 1).contiguous(memory_format=torch.channels_last)
        positive, negative = self._transposed(g, like, both, 1).chunk(2, 2)  # one pass: twice the few channels cost the same
        return positive, negative

    def real_inputs(self, x: Tensor) -> Tensor:
        ones = x.new_ones(1, *x.shape[1:])
        return self._convolve(ones, torch.ones_like(self.weight))

    def spread(self, g: Tensor, like: Tensor) -> Tensor:
        return self._transposed(g, like, torch.ones_like(self.weight), self.groups)

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        left, right, top, bottom = self.pad
        if left == right and top == bottom:
            return F.conv2d(x, weight, None, self.stride, (top, left), self.dilation, self.groups)
        return F.conv2d(F.pad(x, self.pad), weight, None, self.stride, 0, self.dilation, self.groups)

    def _transposed(self, g: Tensor, like: Tensor, weight: Tensor, groups: int) -> Tensor:
        left, right, top, bottom = self.pad
        flat = g.flatten(0, 1)
        size = like.shape[2] + top + bottom, like.shape[3] + left + right
        extra = [
            size[i] - (flat.shape[2 + i] - 1) * self.stride[i] - self.dilation[i] * (weight.shape[2 + i] - 1) - 1 for i in (0, 1)
        ]
        even = left == right and top == bottom
        crop = (top, left) if even else (0, 0)
        found = F.conv_transpose2d(flat, weight, None, self.stride, crop, extra, groups, self.dilation)
        if not even:
            found = found[:, :, top : size[0] - bottom, left : size[1] - right]
        return found.unflatten(0, g.shape[:2])


@dataclass
class Dense(Weighted):
    """A fully connected layer over the last axis. Its weights by sign are made a block at a time: each is read once a pass and
    never held, for a layer of vgg19 has 411 MB and the time goes into reading it."""

    block: ClassVar[int] = 1 << 21  #: weights; what is made of them stays in the cache

    def forward(self, x: Tensor, sign: Sign = 0) -> Tensor:
        if sign == 0:
            return F.linear(x, self.weight)
        return torch.cat([F.linear(x, of_sign(w, sign)) for w in self._blocks(len(x))], -1)

    def forward_by_sign(self, x: Tensor) -> tuple[Tensor, Tensor]:
        both = [(F.linear(x, of_sign(w, 1)), F.linear(x, of_sign(w, -1))) for w in self._blocks(len(x))]
        positive, negative = zip(*both, strict=True)
        return torch.cat(positive, -1), torch.cat(negative, -1)

    def back(self, g: Tensor, like: Tensor, sign: Sign = 0) -> Tensor:
        return self._back([(g, sign)]) if sign else g @ self.weight

    def back_by_sign(self, above: Tensor, below: Tensor | None, like: Tensor) -> Tensor:
        return self._back([(above, 1)] if below is None else [(above, 1), (below, -1)])

    def _back(self, parts: list[tuple[Tensor, Sign]]) -> Tensor:
        first = parts[0][0]
        found, at = first.new_zeros(first[..., 0].numel(), self.weight.shape[1]), 0
        for w in self._blocks(len(found)):
            for g, sign in parts:
                found.addmm_(g[..., at : at + len(w)].flatten(0, -2), of_sign(w, sign))
            at += len(w)
        return found.view(*first.shape[:-1], -1)

    def _blocks(self, rows: int) -> tuple[Tensor, ...]:
        size = self.block * max(1, rows // 8)  # products of many rows are larger than the weights
        return self.weight.split(max(1, size // self.weight.shape[1]))

    def real_inputs(self, x: Tensor) -> Tensor:
        return x.new_full((), self.weight.shape[1])

    def spread(self, g: Tensor, like: Tensor) -> Tensor:
        return g.sum(-1, keepdim=True).expand(*g.shape[:2], *like.shape[1:])

    def bias_like(self, z: Tensor) -> Tensor:
        return z.new_zeros(()) if self.bias is None else self.bias


@dataclass
class Scaling(Weighted):
    """A batch norm that no convolution takes in: each unit times its `weight`, plus its `bias`."""

    def forward(self, x: Tensor, sign: Sign = 0) -> Tensor:
        return x * self._by_unit(x, sign)

    def back(self, g: Tensor, like: Tensor, sign: Sign = 0) -> Tensor:
        return g * self._by_unit(like, sign)

    def real_inputs(self, x: Tensor) -> Tensor:
        return x.new_ones(())

    def spread(self, g: Tensor, like: Tensor) -> Tensor:
        return g

    def _by_unit(self, x: Tensor, sign: Sign) -> Tensor:
        return self.of_sign(sign).view(-1, *[1] * (x.ndim - 2))


@dataclass
class Mapping(Weighted):
    """Any function of an input and weights that is linear in both: other convolutions, products of matrices."""

    function: Callable[[Tensor, Tensor], Tensor] = torch.matmul

    def forward(self, x: Tensor, sign: Sign = 0) -> Tensor:
        return self.function(x, self.of_sign(sign))

    def back(self, g: Tensor, like: Tensor, sign: Sign = 0) -> Tensor:
        return self._transposed(g, like, self.of_sign(sign))

    def real_inputs(self, x: Tensor) -> Tensor:
        return self.function(torch.ones_like(x), torch.ones_like(self.weight))[:1]

    def spread(self, g: Tensor, like: Tensor) -> Tensor:
        return self._transposed(g, like, torch.ones_like(self.weight))

    def _transposed(self, g: Tensor, like: Tensor, weight: Tensor) -> Tensor:
        with torch.enable_grad():
            zero = torch.zeros_like(like).requires_grad_()
            output = self.function(zero, weight)
            return torch.stack([torch.autograd.grad(output, zero, each, retain_graph=True)[0] for each in g])


@dataclass
class Shift(Weighted):
    """A constant that is added: `bias` in the shape of the output, or one that broadcasts to it."""

    def forward(self, x: Tensor, sign: Sign = 0) -> Tensor:
        return torch.zeros_like(x) if sign < 0 else x.clone()

    def back(self, g: Tensor, like: Tensor, sign: Sign = 0) -> Tensor:
        return torch.zeros_like(g) if sign < 0 else g.clone()

    def real_inputs(self, x: Tensor) -> Tensor:
        return x.new_ones(())

    def spread(self, g: Tensor, like: Tensor) -> Tensor:
        return g

    def bias_like(self, z: Tensor) -> Tensor:
        return z.new_zeros(()) if self.bias is None else self.bias


@dataclass
class Pooling(Layer):
    """Average pooling, or a mean over axes: a map with positive weights and no bias."""

    pool: Callable[[Tensor], Tensor]
    name: str = ""

    def forward(self, x: Tensor, sign: Sign = 0) -> Tensor:
        pooled = self.pool(x)
        return torch.zeros_like(pooled) if sign < 0 else pooled

    def back(self, g: Tensor, like: Tensor, sign: Sign = 0) -> Tensor:
        if sign < 0:
            return g.new_zeros(*g.shape[:2], *like.shape[1:])
        with torch.enable_grad():  # the transpose of a linear map is its gradient, wherever that is taken
            zero = like.new_zeros(g.shape[0] * g.shape[1], *like.shape[1:]).requires_grad_()
            pooled = self.pool(zero)
            (found,) = torch.autograd.grad(pooled, zero, g.flatten(0, 1))
        found = found.contiguous() if 0 in found.stride() else found  # a sum's gradient is expanded; ours is written to
        return found.unflatten(0, g.shape[:2])

    def real_inputs(self, x: Tensor) -> Tensor:
        return self.pool(x.new_ones(1, *x.shape[1:]))  # in units of one input's weight

    def spread(self, g: Tensor, like: Tensor) -> Tensor:
        return self.back(g, like)


def added(one: Weighted, two: Weighted) -> Weighted | None:
    """The sum of two layers that see the same, as one layer; None where there is none of the kind."""
    if isinstance(one, Dense) and isinstance(two, Dense) and one.weight.shape == two.weight.shape:
        return Dense(one.weight + two.weight, _sum(one.bias, two.bias), one.name)
    if isinstance(one, Scaling):
        one, two = two, one
    if isinstance(one, Dense) and isinstance(two, Scaling) and one.weight.shape == (len(two.weight),) * 2:
        return Dense(one.weight + two.weight.diag(), _sum(one.bias, two.bias), one.name) if two.name == "" else None
    if not isinstance(one, Convolution):
        return None
    if isinstance(two, Scaling) and one.stride == (1, 1) and two.weight.ndim == 1:
        each = len(two.weight) // one.groups  # channels a group
        diagonal = torch.eye(each, dtype=two.weight.dtype, device=two.weight.device).repeat(one.groups, 1)
        two = Convolution((diagonal * two.weight[:, None])[..., None, None], two.bias, two.name, groups=one.groups)
    same = isinstance(two, Convolution) and (one.stride, one.groups) == (two.stride, two.groups)
    if not isinstance(two, Convolution) or not same or one.weight.shape[:2] != two.weight.shape[:2]:
        return None
    if any(c.dilation != (1, 1) and c.weight.shape[2:] != (1, 1) for c in (one, two)):
        return None
    pad = tuple(max(a, b) for a, b in zip(one.pad, two.pad, strict=True))
    wide = [F.pad(c.weight, [a - b for a, b in zip(pad, c.pad, strict=True)]) for c in (one, two)]
    if wide[0].shape != wide[1].shape:
        return None
    weight = (wide[0] + wide[1]).contiguous(memory_format=torch.channels_last)
    return Convolution(weight, _sum(one.bias, two.bias), one.name, one.stride, pad, groups=one.groups)  # type: ignore[arg-type]


def identity(x: Tensor) -> Scaling:
    """Its input as it is: channels on the second axis, or on the last of tokens."""
    return Scaling(x.new_ones(x.shape[1 if x.ndim == 4 else -1]).detach(), None)


def _sum(one: Tensor | None, two: Tensor | None) -> Tensor | None:
    return one if two is None else two if one is None else one + two


def of_module(module: nn.Module) -> Layer:
    """The linear part of a module of torch, for rules that are registered by zennit itself; raises `TypeError`."""
    if isinstance(module, nn.Linear):
        return Dense(module.weight.detach(), _detached(module.bias), type(module).__name__)
    if isinstance(module, nn.Conv2d):
        left = convolution_padding(module.padding, module.weight, module.dilation)
        return Convolution(
            module.weight.detach(), _detached(module.bias), type(module).__name__, stride=pair(module.stride), pad=left,
            dilation=pair(module.dilation), groups=module.groups,
        )  # fmt: skip
    if isinstance(module, nn.AvgPool2d | nn.AdaptiveAvgPool2d):
        return Pooling(module.forward, type(module).__name__)
    raise TypeError(f"no rule for a module {type(module).__name__}; expected Linear, Conv2d or an average pooling")


def convolution_padding(padding: Any, weight: Tensor, dilation: Any) -> tuple[int, int, int, int]:
    """A convolution's `padding` argument, number, pair or word, as (left, right, top, bottom)."""
    if padding == "valid":
        return 0, 0, 0, 0
    if padding == "same":
        down, right = (d * (k - 1) for d, k in zip(pair(dilation), weight.shape[2:], strict=True))
        return right // 2, right - right // 2, down // 2, down - down // 2
    down, right = pair(padding)
    return right, right, down, down


def pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    first, *rest = value
    return int(first), int(rest[0] if rest else first)


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()
