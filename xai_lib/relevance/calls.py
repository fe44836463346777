"""What a network calls while it runs: torch functions on tensors that depend on its input, written down or answered.

`Recorder` computes each call and keeps it; `Replay` answers the same calls with what was kept, expanded to a population.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from xai_lib.relevance.layers import Convolution, Dense, Layer, Pooling, Scaling, Weighted, convolution_padding, pair
from xai_lib.relevance.operations import Back, Operation, Tape, UnsupportedNetwork


class Mode(TorchFunctionMode, ABC):
    """Sees every call of a torch function; calls that a rule deals with go to `meet`."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape = tape
        self.padded: dict[int, tuple[Tensor, Padding]] = {}  # output of a padding -> its input, for the convolution that follows
        self.kept: list[Tensor] = []  # keeps identities unique
        self.written: dict[int, Tensor | None] = {}  # tensor that was written over -> what it holds now; None: in part

    @abstractmethod
    def meet(self, kind: str, function: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> Tensor:
        """The output of a call; `inputs` are its arguments that depend on the network's input."""

    def used(self, inputs: list[Tensor]) -> None:
        """Called for whatever reads a tensor that depends on the network's input."""

    def end(self) -> None:
        """Called after the pass."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if not args and "input" in kwargs:
            args = (kwargs.pop("input"),)
        if self.written:
            args, kwargs = self._now(tuple(args)), {k: self._now(v) for k, v in kwargs.items()}
        if func in _DROPOUTS and not kwargs.get("training", args[2] if len(args) > 2 else True):
            return args[0]
        inputs = _dependent(args, kwargs)
        if func is F.pad and inputs:
            return self._pad(inputs[0], *args[1:], **kwargs)
        if func in _KINDS and inputs:
            kind = _KINDS[func]
            if kind == "linear":
                inputs = [self.padded.get(id(x), (x, None))[0] for x in inputs]
            output = self.meet(kind, func, args, kwargs, inputs)
            if kind in ("activation", "scalar", "sum") and _in_place(func, args, kwargs):
                self._written(args[0], output)
            return output
        # channels-last maps cannot always be viewed; the values are the same
        found = _METHODS.reshape(*args, **kwargs) if func is _METHODS.view else func(*args, **kwargs)
        if _depends(found):
            if func not in _VIEWS:
                raise UnsupportedNetwork(
                    f"{self.here()}: no rule is known for {getattr(func, '__name__', func)}(); known are convolutions, dense "
                    "layers, batch norms, elementwise activations, pooling, sums and concatenations of branches"
                )
            self.used(inputs)
        return found

    def _written(self, x: Tensor, output: Tensor) -> None:
        """Whatever reads `x` from now on gets `output`."""
        self.written[id(x)] = output
        self.kept += [x, output]
        if x._base is not None:
            self.written[id(x._base)] = None
            self.kept.append(x._base)

    def _now(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            while id(value) in self.written:
                value = self.written[id(value)]
                if value is None:
                    raise UnsupportedNetwork(f"{self.here()}: a tensor is used of which a part was written over in place")
            return value
        return type(value)(map(self._now, value)) if type(value) in (list, tuple) else value

    def _pad(self, x: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
        if mode != "constant" or value:
            raise UnsupportedNetwork(f"{self.here()}: padding with anything but zeros has no rule")
        self.used([x])
        output = F.pad(x, list(pad))
        if len(pad) <= 4 and min(pad) >= 0 and x.ndim == 4:
            left, right, top, bottom = [*pad, 0, 0][:4]
            self.padded[id(output)] = x, (left, right, top, bottom)
            self.kept.append(output)
        return output

    def here(self) -> str:
        """Where in the network, for messages."""
        layer = self.tape.linear[-1].layer if self.tape.linear else None
        return f"{type(self.tape.network).__name__}, " + (f"after layer {layer.name!r}" if layer else "before any layer")


class Replay(Mode):
    """Answers each call with what was recorded, expanded to the candidates."""

    def __init__(self, tape: Tape, candidates: int) -> None:
        super().__init__(tape)
        self.candidates, self.next = candidates, 0

    def meet(self, kind: str, function: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> Tensor:
        if self.next == len(self.tape.operations):
            raise UnsupportedNetwork("the network's second pass differs from its first")
        operation = self.tape.operations[self.next]
        self.next += 1
        return cast(Tensor, Back.apply(self.tape, operation, self.candidates, *inputs))

    def end(self) -> None:
        if self.next != len(self.tape.operations):
            raise UnsupportedNetwork("the network's second pass differs from its first")


class Recorder(Mode):
    """Computes each call, without a graph, and writes it down."""

    def __init__(self, tape: Tape) -> None:
        super().__init__(tape)
        self.made: dict[int, Operation] = {}  # output of a layer that nothing has read so far -> the operation
        self.taken: set[int] = set()  # outputs of layers that took in a batch norm

    def meet(self, kind: str, function: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> Tensor:
        if kind != "norm":
            self.used(inputs)
        with torch.no_grad():
            operation = getattr(self, f"_{kind}")(function, args, kwargs, inputs)
        self.tape.operations.append(operation)
        output = cast(Tensor, Back.apply(self.tape, operation, 1, *inputs))
        self.kept.append(output)
        if kind == "linear":
            self.made[id(output)] = operation
        return output

    def used(self, inputs: list[Tensor]) -> None:
        for x in inputs:
            self.made.pop(id(x), None)
            if id(x) in self.taken:
                raise UnsupportedNetwork(f"{self.here()}: the output of a layer is used beside its batch norm")

    def _operation(self, kind: str, inputs: list[Tensor], output: Tensor, layer: Layer | None = None) -> Operation:
        return Operation(kind, [x.detach() for x in inputs], output.detach(), self.tape.weighted - 1, layer)

    def _linear(self, function: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> Operation:
        bound = dict(zip(_ARGUMENTS[function], args, strict=False)) | kwargs
        if len(inputs) > 1:
            raise UnsupportedNetwork(f"{self.here()}: a layer whose weights depend on the input has no rule")
        x, index = inputs[0].detach(), self.tape.weighted
        if function is not F.linear and x.ndim != 4:
            raise UnsupportedNetwork(f"{self.here()}: a convolution sees {tuple(x.shape)}; expected (N, C, H, W)")
        layer = self.tape.layers.get(index)
        if layer is None:
            pad = self.padded.get(id(bound["input"]), (x, (0, 0, 0, 0)))[1]
            layer = self.tape.layers[index] = self._layer(function, bound, x, pad)
        self.tape.weighted += 1
        if layer.fused:  # by an earlier recording; here its plain output is wanted
            rest = {k: v for k, v in bound.items() if k not in ("input", "weight", "bias")}
            bias = bound.get("bias")
            bias = bias if bias is None else bias.to(x.dtype)
            output = function(bound["input"].detach(), bound["weight"].to(x.dtype), bias, **rest)
        else:
            output = layer.forward(x)
            output = output if layer.bias is None else output.add_(layer.bias_like(output))
        return self._operation("linear", [x], output, layer)

    def _layer(self, function: Any, bound: dict[str, Any], x: Tensor, pad: Padding) -> Weighted:
        name = self.tape.names.get(id(bound["weight"]), f"call {self.tape.weighted}")
        weight, bias = bound["weight"].detach().to(x.dtype), bound.get("bias")
        bias = bias if bias is None else bias.detach().to(x.dtype)
        if function is F.linear:
            return Dense(weight, bias, name)
        stride, dilation = pair(bound.get("stride", 1)), pair(bound.get("dilation", 1))
        own = convolution_padding(bound.get("padding", 0), weight, dilation)
        left, right, top, bottom = (a + b for a, b in zip(own, pad, strict=True))
        weight = weight.contiguous(memory_format=torch.channels_last)
        return Convolution(weight, bias, name, stride, (left, right, top, bottom), dilation, bound.get("groups", 1))

    def _norm(self, function: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> Operation:
        bound = dict(zip(_ARGUMENTS[function], args, strict=False)) | kwargs
        x, mean = bound["input"], bound["running_mean"]
        if bound.get("training") or mean is None:
            raise UnsupportedNetwork(f"{self.here()}: a batch norm without running statistics mixes the images of a batch")
        scale = (bound["running_var"].to(x.dtype) + bound.get("eps", 1e-5)).rsqrt()
        if bound.get("weight") is not None:
            scale = scale * bound["weight"].to(x.dtype)
        shift = -mean.to(x.dtype) * scale
        if bound.get("bias") is not None:
            shift = shift + bound["bias"].to(x.dtype)
        shape = (-1, *[1] * (x.ndim - 2))
        output = torch.addcmul(shift.view(shape), x.detach(), scale.view(shape))
        before = self.made.pop(id(x), None)
        if before is None or (isinstance(before.layer, Dense) and x.ndim > 2):  # whose units are not the norm's
            self.used(inputs)
            return self._operation("scale", [x], output, Scaling(scale, shift, f"a norm {self.here()}"))
        layer = cast(Weighted, before.layer)
        if not layer.fused:
            layer.fuse(scale, shift)
        self.taken.add(id(x))
        before.output = output
        return self._operation("pass", [], output)

    def _activation(self, function: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> Operation:
        x = inputs[0].detach()
        x = x.clone() if _in_place(function, args, kwargs) else x
        return self._operation("pass", [], function(x, *args[1:], **kwargs))

    def _scalar(self, function: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> Operation:
        if len(inputs) != 1 or (function in _DIVISIONS and inputs[0] is not args[0]):
            raise UnsupportedNetwork(f"{self.here()}: a product or quotient of two branches has no rule")
        plain = [a.detach().clone() if isinstance(a, Tensor) else a for a in args]
        return self._operation("pass", [], function(*plain, **kwargs))

    def _sum(self, function: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> Operation:
        if len(inputs) == 1 and any(isinstance(a, int | float) and a == 0 for a in args):  # where Python's sum() begins
            return self._operation("pass", [], inputs[0])
        if len(inputs) != 2 or kwargs.get("alpha", 1) != 1 or inputs[0].shape != inputs[1].shape:
            raise UnsupportedNetwork(
                f"{self.here()}: sums of two branches of one shape have a rule; a constant has none (normalise images before)"
            )
        return self._operation("sum", inputs, inputs[0].detach() + inputs[1].detach())

    def _pool(self, function: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> Operation:
        def pool(values: Tensor) -> Tensor:
            return cast(Tensor, function(values, *args[1:], **kwargs))

        output = pool(inputs[0].detach())
        dims = kwargs.get("dim", args[1] if len(args) > 1 else None) if function in _MEANS else 1
        dims = [dims] if isinstance(dims, int) else dims
        if not dims or any(d in (0, -inputs[0].ndim) for d in dims):
            raise UnsupportedNetwork(f"{self.here()}: a mean over images has no rule")
        return self._operation("pool", inputs, output, Pooling(pool, f"pooling {self.here()}"))

    def _max(self, function: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> Operation:
        kwargs = {k: v for k, v in kwargs.items() if k != "return_indices"}
        output, indices = _WITH_INDICES[function](inputs[0].detach(), *args[1:], **kwargs)
        operation = self._operation("max", inputs, output, self._average(function, args, kwargs))
        operation.indices = indices
        return operation

    def _average(self, function: Any, args: Any, kwargs: Any) -> Pooling:
        """Average pooling over the windows of a max pooling."""
        bound = dict(zip(_WINDOW, args[1:], strict=False)) | kwargs
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


def _depends(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.requires_grad
    return isinstance(value, list | tuple) and any(map(_depends, value))


def _dependent(args: Any, kwargs: Any) -> list[Tensor]:
    """Arguments that depend on the network's input, those in lists included."""
    found: list[Tensor] = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            found += [value] if value.requires_grad else []
        elif isinstance(value, list | tuple):
            found += _dependent(value, {})
    return found


def _in_place(function: Any, args: Any, kwargs: Any) -> bool:
    name = function.__name__
    by_name = name.startswith("__i") or (name.endswith("_") and not name.endswith("__"))
    return by_name or bool(kwargs.get("inplace")) or any(a is True for a in args[1:])


Padding = tuple[int, int, int, int]
_METHODS = torch.Tensor
_KINDS: dict[Any, str] = {
    torch.conv2d: "linear", F.linear: "linear", F.batch_norm: "norm",
    **dict.fromkeys((
        F.relu, F.relu_, torch.relu, torch.relu_, _METHODS.relu, _METHODS.relu_, F.relu6, F.hardtanh, F.hardtanh_, F.leaky_relu,
        F.leaky_relu_, F.elu, F.selu, F.celu, F.silu, F.gelu, F.mish, F.hardswish, F.hardsigmoid, F.softplus, torch.tanh,
        _METHODS.tanh, F.tanh, torch.sigmoid, _METHODS.sigmoid, F.sigmoid, torch.clamp, _METHODS.clamp, _METHODS.clamp_,
    ), "activation"),
    **dict.fromkeys((
        torch.mul, _METHODS.mul, _METHODS.mul_, _METHODS.__rmul__, torch.div, _METHODS.div, _METHODS.div_,
    ), "scalar"),
    **dict.fromkeys((torch.add, _METHODS.add, _METHODS.add_, _METHODS.__radd__), "sum"),
    **dict.fromkeys((F.avg_pool2d, F.adaptive_avg_pool2d, torch.mean, _METHODS.mean), "pool"),
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d, F.adaptive_max_pool2d), "max"),
}  # fmt: skip
_DROPOUTS = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout}
_DIVISIONS = {torch.div, _METHODS.div, _METHODS.div_}
_MEANS = {torch.mean, _METHODS.mean}
_WITH_INDICES: dict[Any, Any] = {
    F.max_pool2d: F.max_pool2d_with_indices, torch.max_pool2d: F.max_pool2d_with_indices,
    F.adaptive_max_pool2d: F.adaptive_max_pool2d_with_indices,
}  # fmt: skip
_WINDOW = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
_ARGUMENTS = {
    torch.conv2d: ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    F.linear: ("input", "weight", "bias"),
    F.batch_norm: ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
}
#: what moves values and changes none: its gradient carries relevance as it is
_VIEWS = {
    torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze, torch.unsqueeze, torch.cat, torch.concat,
    torch.concatenate, torch.stack, torch.chunk, torch.split, torch.narrow, torch.unbind, torch.unflatten, torch.clone,
    _METHODS.flatten, _METHODS.reshape, _METHODS.permute, _METHODS.transpose, _METHODS.squeeze, _METHODS.unsqueeze,
    _METHODS.chunk, _METHODS.split, _METHODS.narrow, _METHODS.unbind, _METHODS.unflatten, _METHODS.clone, _METHODS.view,
    _METHODS.view_as, _METHODS.contiguous, _METHODS.to, _METHODS.__getitem__, _METHODS.expand, _METHODS.expand_as,
}  # fmt: skip
