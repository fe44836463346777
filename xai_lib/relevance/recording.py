"""One forward pass, recorded, and relevance sent back through it as often as wanted.

Nothing of the network is changed. While the network runs, every call of a torch function on a tensor that depends on the
input is seen (`TorchFunctionMode`), whether a module makes it or the code of `forward`: convolutions and dense layers,
batch norms (taken into the convolution before them), activations, pooling, sums of branches. So residual networks,
concatenations and functional calls need no preparation, and whatever no rule is known for is an error, not a wrong map.

A population of P candidates goes back as one batch: the network's code runs a second time on P expanded copies of the
recorded outputs, where no layer is computed again, and autograd carries relevance through views and concatenations.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from xai_lib.allocator import keep_freed_memory
from xai_lib.explanation import left_as_it_was
from xai_lib.relevance.layers import Convolution, Dense, Layer, Pooling, Scaling, Weighted, convolution_padding, pair
from xai_lib.relevance.rules import Epsilon, RelevanceError, Rule, State


class UnsupportedNetwork(RelevanceError):
    """A network with an operation that no rule is known for."""


class RuleChoice(Protocol):
    """What assigns rules to layers: see `explainers.lrp.Composite`."""

    def rule(self, operation: Operation, recording: Recording) -> Rule: ...


@dataclass
class Operation:
    """One call: what it was, what went in, what came out. `index` counts convolutions and dense layers, from the input."""

    kind: str
    inputs: list[Tensor]
    output: Tensor
    index: int
    layer: Layer | None = None
    indices: Tensor | None = None  #: of max pooling
    states: dict[Any, State] = field(default_factory=dict)

    def state(self, rule: Rule) -> State:
        """What the rule keeps of this image; made once."""
        if rule.kind not in self.states:
            assert self.layer is not None
            self.states[rule.kind] = rule.prepare(self.layer, self.inputs[0], self.output)
        return self.states[rule.kind]


@dataclass
class Ledger:
    """Where relevance went that did not reach the pixels: `biases` and, by operation, what was lost; `(P, N)` each."""

    biases: Tensor | float = 0.0
    lost: dict[str, Tensor] = field(default_factory=dict)


class Recording:
    """A forward pass of `inputs` `(N, C, H, W)`, as the network wants them, in their dtype.

    The network is put into evaluation mode for the pass and left as it was. `layers` of an earlier recording of the same
    network share what depends on weights alone. Raises `UnsupportedNetwork`.
    """

    def __init__(self, network: nn.Module, inputs: Tensor, earlier: Recording | None = None) -> None:
        keep_freed_memory()
        if not isinstance(inputs, Tensor) or inputs.ndim < 2 or not inputs.is_floating_point():
            found = f"{tuple(inputs.shape)} of {inputs.dtype}" if isinstance(inputs, Tensor) else type(inputs).__name__
            raise RelevanceError(f"inputs: expected floats (N, C, H, W), normalised as the network wants them; found {found}")
        self.network = network
        layout = torch.channels_last if inputs.ndim == 4 else torch.contiguous_format
        self.inputs = inputs.detach().contiguous(memory_format=layout)
        self.operations: list[Operation] = []
        self.layers: dict[int, Weighted] = earlier.layers if earlier is not None else {}
        self.names = {id(p): n.rpartition(".")[0] for n, p in network.named_parameters()}
        self.weighted = 0
        self._graphs: dict[int, tuple[Tensor, Tensor]] = {}
        self._choice: RuleChoice | None = None
        self._values: Tensor | None = None
        self._ledger: Ledger | None = None
        self._groups: Sequence[int] = ()
        self._graphs[1] = self._run(self.inputs, _Recorder(self))
        self.logits = self._graphs[1][1].detach()
        if self.logits.ndim != 2:
            raise UnsupportedNetwork(f"expected logits (N, classes), found {tuple(self.logits.shape)}")
        if not self.weighted:
            raise UnsupportedNetwork(f"{type(network).__name__} has no convolution or dense layer")

    @property
    def linear(self) -> list[Operation]:
        """The convolutions and dense layers, from the input to the output."""
        return [o for o in self.operations if o.kind == "linear"]

    def relevance(
        self,
        start: Tensor,
        choice: RuleChoice,
        values: Tensor | None = None,
        groups: Sequence[int] = (),
        ledger: Ledger | None = None,
    ) -> Tensor:
        """Relevance of the inputs, `(P, N, C, H, W)`, from that of the logits, `start` `(P, N, classes)`.

        `values` `(P, G)` replaces the rules' own parameters: candidate p has `values[p, groups[i]]` in layer i.
        """
        candidates = len(start)
        if candidates not in self._graphs:
            copies = self.inputs.expand(candidates, *self.inputs.shape).flatten(0, 1)
            self._graphs[candidates] = self._run(copies, _Replay(self, candidates))
        inputs, logits = self._graphs[candidates]
        self._choice, self._values, self._groups, self._ledger = choice, values, groups, ledger
        (found,) = torch.autograd.grad(logits, inputs, start.to(logits).flatten(0, 1), retain_graph=True)
        return found.unflatten(0, (candidates, -1))

    @property
    def nbytes(self) -> int:
        """The memory that this pass and what the rules keep of it take; weights are shared and do not count."""
        tensors = [t for o in self.operations for t in (*o.inputs, o.output, *(v for s in o.states.values() for v in s.values()))]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if isinstance(t, Tensor)}
        return sum(storages.values())

    def _run(self, inputs: Tensor, mode: _Mode) -> tuple[Tensor, Tensor]:
        with left_as_it_was(self.network), torch.enable_grad():
            self.network.requires_grad_(False)
            start = inputs.detach().requires_grad_()
            with mode:
                logits = self.network(start)
        if not isinstance(logits, Tensor) or not logits.requires_grad:
            raise UnsupportedNetwork("the network's output is no tensor that depends on its input")
        mode.end()
        return start, logits

    # the way back, operation by operation; `r` is (P, N, ...)

    def back(self, operation: Operation, r: Tensor) -> list[Tensor]:
        if operation.kind == "pass":
            return [r]
        if operation.kind == "max":
            return [_unpooled(operation, r)]
        assert self._choice is not None
        rule = self._choice.rule(operation, self)
        place = max(operation.index, 0)
        own = self._values is None
        value = rule.value if own else cast(Tensor, self._values)[:, self._groups[place]]
        if operation.kind == "sum":
            found = rule.share(operation.inputs, r, value)
        elif operation.kind == "pool":
            rule = rule.pooled()
            found = [rule.redistribute(cast(Layer, operation.layer), operation.state(rule), r, value)]
        elif operation.kind == "scale" and not isinstance(rule, Epsilon):
            found = [r]  # one input a unit: all of it
        else:
            layer, state = cast(Layer, operation.layer), operation.state(rule)
            found = [rule.redistribute(layer, state, r, value)]
            if self._ledger is not None:
                self._ledger.biases = self._ledger.biases + rule.absorbed(layer, state, r, value)
        return found

    def __repr__(self) -> str:
        return f"Recording({tuple(self.inputs.shape)}, {len(self.linear)} layers)"


class _Back(torch.autograd.Function):
    """Stands in the graph for an operation: its output is known, on the way back the rule decides."""

    @staticmethod
    def forward(ctx: Any, recording: Recording, operation: Operation, candidates: int, *inputs: Tensor) -> Tensor:
        # weak: the recording holds this graph, and Python's collector does not see cycles through autograd's nodes
        ctx.recording, ctx.operation, ctx.candidates = weakref.ref(recording), operation, candidates
        output = operation.output
        if candidates == 1:
            return output.detach()
        return output.expand(candidates, *output.shape).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        r = relevance.unflatten(0, (ctx.candidates, -1))
        return None, None, None, *(f.flatten(0, 1) for f in ctx.recording().back(ctx.operation, r))


class _Mode(TorchFunctionMode):
    """Sees every call of a torch function; calls that a rule deals with go to `meet`."""

    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self.recording = recording
        self.padded: dict[int, tuple[Tensor, Padding]] = {}  # output of a padding -> its input, for the convolution that follows
        self.kept: list[Tensor] = []  # keeps identities unique
        self.written: dict[int, Tensor | None] = {}  # tensor that was written over -> what it holds now; None: in part

    def meet(self, kind: str, function: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> Tensor:
        """The output of a call; `inputs` are its arguments that depend on the network's input."""
        raise NotImplementedError

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
        layer = self.recording.linear[-1].layer if self.recording.linear else None
        return f"{type(self.recording.network).__name__}, " + (f"after layer {layer.name!r}" if layer else "before any layer")


class _Replay(_Mode):
    """Answers each call with what was recorded, expanded to the candidates."""

    def __init__(self, recording: Recording, candidates: int) -> None:
        super().__init__(recording)
        self.candidates, self.next = candidates, 0

    def meet(self, kind: str, function: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> Tensor:
        if self.next == len(self.recording.operations):
            raise UnsupportedNetwork("the network's second pass differs from its first")
        operation = self.recording.operations[self.next]
        self.next += 1
        return cast(Tensor, _Back.apply(self.recording, operation, self.candidates, *inputs))

    def end(self) -> None:
        if self.next != len(self.recording.operations):
            raise UnsupportedNetwork("the network's second pass differs from its first")


class _Recorder(_Mode):
    """Computes each call, without a graph, and writes it down."""

    def __init__(self, recording: Recording) -> None:
        super().__init__(recording)
        self.made: dict[int, Operation] = {}  # output of a layer that nothing has read so far -> the operation
        self.taken: set[int] = set()  # outputs of layers that took in a batch norm

    def meet(self, kind: str, function: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> Tensor:
        if kind != "norm":
            self.used(inputs)
        with torch.no_grad():
            operation = getattr(self, f"_{kind}")(function, args, kwargs, inputs)
        self.recording.operations.append(operation)
        output = cast(Tensor, _Back.apply(self.recording, operation, 1, *inputs))
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
        return Operation(kind, [x.detach() for x in inputs], output.detach(), self.recording.weighted - 1, layer)

    def _linear(self, function: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> Operation:
        bound = dict(zip(_ARGUMENTS[function], args, strict=False)) | kwargs
        if len(inputs) > 1:
            raise UnsupportedNetwork(f"{self.here()}: a layer whose weights depend on the input has no rule")
        x, index = inputs[0].detach(), self.recording.weighted
        if function is not F.linear and x.ndim != 4:
            raise UnsupportedNetwork(f"{self.here()}: a convolution sees {tuple(x.shape)}; expected (N, C, H, W)")
        layer = self.recording.layers.get(index)
        if layer is None:
            pad = self.padded.get(id(bound["input"]), (x, (0, 0, 0, 0)))[1]
            layer = self.recording.layers[index] = self._layer(function, bound, x, pad)
        self.recording.weighted += 1
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
        name = self.recording.names.get(id(bound["weight"]), f"call {self.recording.weighted}")
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
        operation = self._operation("max", inputs, output)
        operation.indices = indices
        return operation


def _unpooled(operation: Operation, r: Tensor) -> Tensor:
    """Relevance to the largest input of each window; channels last, as everything else."""
    x, indices = operation.inputs[0], cast(Tensor, operation.indices)
    places = indices.flatten(2).transpose(1, 2).expand(len(r), -1, -1, -1)  # (P, N, hw, C)
    found = r.new_zeros(*r.shape[:2], x[0, 0].numel(), r.shape[2])
    found.scatter_add_(2, places, r.flatten(3).transpose(2, 3))
    return found.view(*r.shape[:2], *x.shape[2:], -1).permute(0, 1, 4, 2, 3)


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
    **dict.fromkeys((torch.mul, _METHODS.mul, _METHODS.mul_, _METHODS.__rmul__, torch.div, _METHODS.div, _METHODS.div_), "scalar"),
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
