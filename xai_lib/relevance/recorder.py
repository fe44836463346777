"""The pass that is written down: each call is computed without a graph, and kept with what the rules need of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from xai_lib.relevance import functions as known
from xai_lib.relevance import graph
from xai_lib.relevance.calls import Mode, Padding, name_of, tensors
from xai_lib.relevance.layers import (
    Convolution,
    Dense,
    Layer,
    Mapping,
    Pooling,
    Scaling,
    Shift,
    Weighted,
    added,
    convolution_padding,
    identity,
    pair,
)
from xai_lib.relevance.operations import Back, Operation, Tape, UnsupportedNetwork


class BesideItsNorm(Exception):  # no error: the pass begins again
    """A layer's output is read by something beside the batch norm of that number, which is then a layer of its own."""

    def __init__(self, norm: int) -> None:
        super().__init__()
        self.norm = norm


class Recorder(Mode):
    """Computes each call, without a graph, and writes it down."""

    def __init__(self, tape: Tape) -> None:
        super().__init__(tape)
        self.made: dict[int, Operation] = {}  # output of a layer that nothing has read so far -> the operation
        self.maps: dict[int, Weighted] = {}  # output of a layer, with its batch norm if any -> the layer
        self.entries: list[tuple[Operation, Tensor]] = []  # each layer, and what it sees in the graph
        self.taken: dict[int, int] = {}  # output of a layer that took in a batch norm -> the number of the norm
        self.norms = 0

    def meet(self, kind: str, function: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> Tensor:
        if kind != "norm":
            self.used(inputs)
        with torch.no_grad():
            operation = getattr(self, f"_{kind}")(function, args, kwargs, inputs)
        self.tape.operations.append(operation)
        self.met += 1
        inputs = self.sources_of(operation, inputs)
        output = cast(Tensor, Back.apply(self.tape, operation, 1, *inputs))
        self.kept.append(output)
        if operation.kind in ("linear", "scale") or (operation.kind == "pass" and operation.layer is not None):
            self.maps[id(output)] = cast(Weighted, operation.layer)
        if operation.kind == "linear":
            self.entries.append((operation, inputs[0]))
        if operation.kind == "linear" and not name_of(function).startswith("conv_transpose"):
            self.made[id(output)] = operation
        return output

    def used(self, inputs: list[Tensor]) -> None:
        for x in inputs:
            self.made.pop(id(x), None)
            if id(x) in self.taken:
                raise BesideItsNorm(self.taken[id(x)])

    def _operation(self, kind: str, inputs: list[Tensor], output: Tensor, layer: Layer | None = None) -> Operation:
        return Operation(kind, [x.detach() for x in inputs], output.detach(), layer=layer)

    # layers with weights, and the batch norms behind them

    def _linear(self, function: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> Operation:
        name = "linear" if function is F.linear else name_of(function).rstrip("123d")
        bound = known.bound(name, args, kwargs)
        if len(inputs) > 1 or not bound["input"].requires_grad:
            raise UnsupportedNetwork(f"{self.here()}: a layer whose weights depend on the input has no rule")
        x, index = inputs[0].detach(), len(self.entries)
        if function is not F.linear and x.ndim != int(name_of(function)[-2]) + 2:
            shape = "(N, C, H, W)" if function is torch.conv2d else "images on the first axis, channels on the second"
            raise UnsupportedNetwork(f"{self.here()}: a convolution sees {tuple(x.shape)}; expected {shape}")
        layer = self.tape.layers.get(index)
        if layer is None:
            pad = self.padded.get(id(bound["input"]), (x, (0, 0, 0, 0)))[1]
            layer = self.tape.layers[index] = self._layer(function, bound, x, pad)
        if layer.fused:  # by an earlier recording; here its plain output is wanted
            rest = {k: v for k, v in bound.items() if k not in ("input", "weight", "bias")}
            output = function(bound["input"].detach(), bound["weight"], bound.get("bias"), **rest)
        else:
            output = layer.forward(x)
            output = output if layer.bias is None else output.add_(layer.bias_like(output))
        return self._operation("linear", [x], output, layer)

    def _layer(self, function: Any, bound: dict[str, Any], x: Tensor, pad: Padding) -> Weighted:
        name = self.tape.names.get(id(bound["weight"]), f"call {len(self.entries)}")
        weight, bias = bound["weight"].detach(), bound.get("bias")
        bias = bias if bias is None else bias.detach()
        if function is F.linear:
            return Dense(weight, bias, name)
        if function is not torch.conv2d:
            rest = {k: v for k, v in bound.items() if k not in ("input", "weight", "bias")}
            return Mapping(weight, bias, name, lambda x, w: cast(Tensor, function(x, w, None, **rest)))
        stride, dilation = pair(bound.get("stride", 1)), pair(bound.get("dilation", 1))
        own = convolution_padding(bound.get("padding", 0), weight, dilation)
        left, right, top, bottom = (a + b for a, b in zip(own, pad, strict=True))
        weight = weight.contiguous(memory_format=torch.channels_last)
        return Convolution(weight, bias, name, stride, (left, right, top, bottom), dilation, bound.get("groups", 1))

    def _norm(self, function: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> Operation:
        bound = known.bound("batch_norm", args, kwargs)
        x, mean = bound["input"], bound["running_mean"]
        if bound.get("training") or mean is None:
            raise UnsupportedNetwork(f"{self.here()}: a batch norm without running statistics mixes the images of a batch")
        scale = (bound["running_var"] + bound.get("eps", 1e-5)).rsqrt()
        if bound.get("weight") is not None:
            scale = scale * bound["weight"]
        shift = -mean * scale
        if bound.get("bias") is not None:
            shift = shift + bound["bias"]
        shape = (-1, *[1] * (x.ndim - 2))
        output = torch.addcmul(shift.view(shape), x.detach(), scale.view(shape))
        before, number = self.made.pop(id(x), None), self.norms
        self.norms += 1
        others = isinstance(before.layer, Dense) and x.ndim > 2 if before is not None else True  # its units are not the norm's
        if before is None or others or number in self.tape.apart:
            self.used(inputs)
            operation = self._operation("scale", [x], output, Scaling(scale, shift, f"a norm {self.here()}"))
            operation.monotone = True
            return operation
        layer = cast(Weighted, before.layer)
        if not layer.fused:
            layer.fuse(scale, shift)
        self.taken[id(x)] = number
        before.output = output
        return self._operation("pass", [], output, layer)

    # sums and products

    def _activation(self, function: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> Operation:
        x = inputs[0].detach()
        x = x.clone() if known.in_place(function, args, kwargs) else x
        operation = self._operation("pass", [], function(x, *args[1:], **kwargs))
        operation.monotone = function in known.MONOTONE
        return operation

    def _sum(self, function: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> Operation:
        first, second = (a.detach() if isinstance(a, Tensor) else a for a in args[:2])
        times = kwargs.get("alpha", 1) * (-1 if function in known.SUBTRACTIONS else 1)
        second = second if times == 1 else second * times
        output = first + second
        if len(inputs) == 2:
            return self._parallel(inputs, times, output) or self._operation("sum", [first, second], output)
        x, constant = (first, second) if args[0] is inputs[0] else (second, first)
        bias = torch.as_tensor(constant, dtype=output.dtype, device=output.device)
        layer = Shift(bias.new_zeros(()), bias.clone(), f"a constant {self.here()}")
        operation = self._operation("scale", [x], output, layer)
        operation.monotone = True
        return operation

    def _parallel(self, inputs: list[Tensor], times: float, output: Tensor) -> Operation | None:
        """Layers that see the same and are added up are one layer, as in networks that are trained with branches and run
        without (RepVGG, MobileOne); what a layer sees may be among them, as in position encodings by a convolution."""
        below = self._common(inputs)
        if below is None or times != 1:
            return None
        maps = [identity(below) if x is below else self.maps[id(x)] for x in inputs]
        index = len(self.entries)
        layer = self.tape.layers.get(index) or added(*maps)
        if layer is None:
            return None
        self.tape.layers[index] = layer
        return self._operation("linear", [below.detach()], output, layer)

    def end(self) -> None:
        """Number the layers that relevance passes; those of gates alone are not among them."""
        for operation, x in self.entries:
            if operation.live:
                self.tape.pixels, self.tape.direct = graph.before(x), x.grad_fn is None
                break
        self.tape.number()

    def _product(self, function: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> Operation:
        first, second = (a.detach() if isinstance(a, Tensor) else a for a in args[:2])
        quotient = function in known.QUOTIENTS
        operation = self._operation("pass", [], first / second if quotient else first * second)
        operation.monotone = len(inputs) == 1
        if len(inputs) == 2:
            gate = 1 if quotient else self._gate(*inputs)
            operation.kind = "product"
            operation.gates = frozenset() if gate is None else frozenset((gate,))
        return operation

    def _gate(self, *factors: Tensor) -> int | None:
        """Which of two factors is a gate: the one that ends in a sigmoid or softmax, else the one that is the same for whole
        axes, else the one that lies between two limits; None: neither."""
        ranks = [self.gates.get(id(f), 0) for f in factors]
        sizes = [-_extent(f) for f in factors]
        for sides in ([max(r, 1) for r in ranks], sizes, ranks):
            if sides[0] != sides[1]:
                return sides.index(max(sides))
        return None

    def _mixing(self, function: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> Operation:
        """A product of two matrices, or `einsum` of two: linear in each factor."""
        both = tensors(args, kwargs)
        call, plain = _of(function, args, kwargs), [x.detach() for x in both]
        mine = [i for i, x in enumerate(both) if x.requires_grad]
        operation = self._operation("mixing", inputs, call(*plain))
        for i in mine:
            mapping = call if i == 0 else (lambda x, w: call(w, x))
            layer = Mapping(plain[1 - i], None, f"a product of matrices {self.here()}", mapping)
            operation.sides.append(Operation("mixing", [plain[i]], operation.output, layer=layer))
        ranks = [self.gates.get(id(x), 0) for x in inputs]
        if len(inputs) == 2 and max(ranks) > 1 and ranks[0] != ranks[1]:
            operation.gates = frozenset((ranks.index(max(ranks)),))
        return operation

    # pooling and choices

    def _pool(self, function: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> Operation:
        def pool(values: Tensor) -> Tensor:
            return cast(Tensor, function(values, *args[1:], **kwargs))

        output = pool(inputs[0].detach())
        return self._operation("pool", inputs, output, Pooling(pool, f"pooling {self.here()}"))

    def _selection(self, function: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> Operation:
        call, every = _of(function, args, kwargs), [t.detach() for t in tensors(args, kwargs)]
        mine = [i for i, t in enumerate(tensors(args, kwargs)) if t.requires_grad]

        def chosen(*values: Tensor) -> Tensor:
            filled = list(every)
            for i, value in zip(mine, values, strict=True):
                filled[i] = value
            return call(*filled)

        operation = self._operation("selection", inputs, call(*every))
        operation.function = chosen
        operation.monotone = function in known.CONCATENATIONS or function is F.pad
        return operation

    def _max(self, function: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> Operation:
        kwargs = {k: v for k, v in kwargs.items() if k != "return_indices"}
        output, indices = known.MAX_POOLING[function](inputs[0].detach(), *args[1:], **kwargs)
        operation = self._operation("max", inputs, output, self._average(function, args, kwargs))
        operation.indices = indices
        return operation

    def _average(self, function: Any, args: Any, kwargs: Any) -> Pooling:
        """Average pooling over the windows of a max pooling."""
        bound = dict(zip(known.WINDOW, args[1:], strict=False)) | kwargs
        name, here = f"max pooling {self.here()}", self.here()
        if function is F.adaptive_max_pool2d:
            size = kwargs.get("output_size", args[1] if len(args) > 1 else None)
            return Pooling(lambda values: F.adaptive_avg_pool2d(values, size), name)

        def pool(values: Tensor) -> Tensor:
            if pair(bound.get("dilation", 1)) != (1, 1):
                raise UnsupportedNetwork(f"{here}: max pooling with dilation has no average of the same windows")
            options = {k: bound[k] for k in ("stride", "padding", "ceil_mode") if bound.get(k) is not None}
            return F.avg_pool2d(values, bound["kernel_size"], **options)

        return Pooling(pool, name)


def _extent(x: Tensor) -> int:
    """How many different elements a tensor has: those that were expanded count once."""
    return int(torch.tensor([n if s else 1 for n, s in zip(x.shape, x.stride(), strict=True)]).prod())


def _of(function: Any, args: Any, kwargs: Any) -> Callable[..., Tensor]:
    """The call as a function of all tensors among its arguments, by place; it holds none of them."""
    count = itertools.count()
    places, named = [_emptied(a, count) for a in args], {k: _emptied(v, count) for k, v in kwargs.items()}

    def call(*values: Tensor) -> Tensor:
        found = function(*(_filled(a, values) for a in places), **{k: _filled(v, values) for k, v in named.items()})
        return cast(Tensor, found)

    return call


@dataclass(frozen=True)
class _Place:
    """Where a tensor was among the arguments."""

    index: int


def _emptied(value: Any, count: Iterator[int]) -> Any:
    if isinstance(value, Tensor):
        return _Place(next(count))
    return type(value)(_emptied(v, count) for v in value) if type(value) in (list, tuple) else value


def _filled(value: Any, values: tuple[Tensor, ...]) -> Any:
    if isinstance(value, _Place):
        return values[value.index]
    return type(value)(_filled(v, values) for v in value) if type(value) in (list, tuple) else value
