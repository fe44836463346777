"""What a network calls while it runs: torch functions on tensors that depend on its input, sorted by what they are.

`Mode` sees each call and hands those that a rule deals with to `meet`; larger functions (attention, layer norms) are first
rewritten in terms of smaller ones. `Recorder` (recorder.py) computes and keeps what it meets; `Replay` answers the same
calls with what was kept, expanded to a population. What passes by unseen, because gradients were off, because it was
detached or left torch as a number, is an error where it comes back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from xai_lib.relevance import functions as known
from xai_lib.relevance.axes import axis_behind
from xai_lib.relevance.operations import Back, Operation, Tape, UnsupportedNetwork
from xai_lib.relevance.rewriting import REWRITTEN

Padding = tuple[int, int, int, int]


class Mode(TorchFunctionMode, ABC):
    """Sees every call of a torch function."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape = tape
        self.met = 0
        self.start: Tensor | None = None  # the network's input
        self.kept: list[Any] = []  # keeps identities unique
        self.padded: dict[int, tuple[Tensor, Padding]] = {}  # output of a padding -> its input, for the convolution behind
        self.written: dict[int, Tensor | None] = {}  # tensor written over -> what it holds now; None: in part
        self.hidden: dict[int, str] = {}  # depends on the input's values, without gradient -> through what
        self.masks: set[int] = set()  # the same, but piecewise constant: comparisons, indices
        self.axes: dict[int, int] = {}  # the axis of the images where it is not the first; -1: lost
        self.gates: dict[int, int] = {}  # lies between two limits -> how surely it is a gate, see `known.BOUNDED`
        self.sources: dict[int, Tensor] = {}  # output of a layer, with its batch norm if any -> what the layer sees
        self.unknown: dict[Any, str] = {}  # node of the graph that no rule is known for -> in words

    @abstractmethod
    def meet(self, kind: str, function: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> Tensor:
        """The output of a call; `inputs` are its arguments that depend on the network's input."""

    def sources_of(self, operation: Operation, inputs: list[Tensor]) -> list[Tensor]:
        """What an operation's node stands behind: its inputs, or of layers added up what all of them see."""
        return [cast(Tensor, self._common(inputs))] if operation.kind == "linear" and len(inputs) == 2 else inputs

    def _common(self, inputs: list[Tensor]) -> Tensor | None:
        """What two layers that are added up both see, or what is added to its own layer."""
        one, two = inputs
        below, other = self.sources.get(id(one)), self.sources.get(id(two))
        return below if below is not None and (below is other or below is two) else other if other is one else None

    def used(self, inputs: list[Tensor]) -> None:
        """Called for whatever reads a tensor that depends on the network's input."""

    def end(self) -> None:
        """Called after the pass."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if not args and "input" in kwargs:
            args = (kwargs.pop("input"),)
        args, kwargs = self._now(tuple(args)), {k: self._now(v) for k, v in kwargs.items()}
        inputs = dependent(args, kwargs)
        if func in known.DROPOUTS and not kwargs.get("training", args[2] if len(args) > 2 else True):
            return args[0]
        if not torch.is_grad_enabled():
            return self._native(func, args, kwargs, inputs, "torch.no_grad() or a custom autograd.Function")
        if not inputs:
            return self._native(func, args, kwargs, inputs, "")
        if (name := getattr(func, "__name__", "")) and func in known.ESCAPES and inputs[0].is_floating_point():
            raise UnsupportedNetwork(f"{self.here()}: {name}() takes values out of torch, where no relevance can follow them")
        args, kwargs = self._of_one_dtype(args, kwargs, inputs[0].dtype)
        if func in REWRITTEN:
            found = REWRITTEN[func](self.call, *args, **kwargs)
            if known.in_place(func, args, kwargs):
                self._written(args[0], found)
            return found
        if func in known.MATRIX_PRODUCTS and args[0].requires_grad and args[0].ndim > 1 and is_matrix(args[1]):
            self._all_seen(func, args, kwargs)
            weight = args[1].t()
            self.tape.names.setdefault(id(weight), self.tape.names.get(id(args[1]), ""))
            self.kept.append(weight)
            return self.call(F.linear, args[0], weight)
        if func is F.pad:
            return self._pad(*args, **kwargs)
        if func in known.MEANS and self.axes.get(id(args[0]), 0) > 0:
            return self._mean(func, args, kwargs)
        kind = self._kind(func, args, kwargs, inputs)
        if kind is None:
            return self._native(func, args, kwargs, inputs, f"{name}()")
        self._all_seen(func, args, kwargs)
        if kind in ("sum", "product"):
            if len(inputs) == 1 and kind == "sum" and any(isinstance(a, int | float) and a == 0 for a in args):
                return inputs[0]  # Python's sum() begins with 0
            args, inputs = self._broadcast(args)
        if kind == "linear":
            inputs = [self.padded.get(id(x), (x, None))[0] for x in inputs]
        output = self.meet(kind, func, args, kwargs, inputs)
        self.kept.append(output)
        self._source(self.tape.operations[self.met - 1], inputs, output)
        self._tag(kind, func, args, inputs, output)
        if known.in_place(func, args, kwargs) and isinstance(args[0], Tensor):
            self._written(cast(Tensor, self._target), output)
        return output

    def _source(self, operation: Operation, inputs: list[Tensor], output: Tensor) -> None:
        """Keep account of what a layer's output was made of; a batch norm that it took in is part of it."""
        if operation.kind == "linear" and len(inputs) == 2:
            self.sources[id(output)] = cast(Tensor, self._common(inputs))
        elif operation.kind in ("linear", "scale"):
            self.sources[id(output)] = inputs[0]
        elif operation.kind == "pass" and operation.layer is not None:
            self.sources[id(output)] = self.sources[id(inputs[0])]

    def call(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """A call made in the course of another, seen as well."""
        return self.__torch_function__(func, (), args, kwargs)

    def _kind(self, func: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> str | None:
        """What sort of operation a call is; None: a view, or nothing that is known."""
        self._target = args[0]
        two = [a for a in (*args[:2], kwargs.get("other")) if isinstance(a, Tensor) and a.requires_grad]
        if func is F.linear or func in known.CONVOLUTIONS:
            return "linear"
        if func is F.batch_norm:
            return "norm"
        if func in known.ELEMENTWISE:
            return "activation" if len(inputs) == 1 and inputs[0] is args[0] else None
        if func in known.ADDITIONS or func in known.SUBTRACTIONS:
            return "sum"
        if func in known.PRODUCTS or (func in known.QUOTIENTS and two and two[0] is args[0]):
            return "product" if kwargs.get("rounding_mode") is None else None
        if func in known.MATRIX_PRODUCTS or func is torch.einsum:
            return "mixing" if len(tensors(args, kwargs)) == 2 else None
        if func in known.MAX_POOLING and not kwargs.get("return_indices"):
            return "max"
        if func in known.POOLING:
            return None if func in known.MEANS and over_images(args, kwargs) else "pool"
        constants = func in known.CONCATENATIONS and len(inputs) < len(tensors(args, kwargs))
        return "selection" if func in known.SELECTIONS or constants else None

    def _native(self, func: Any, args: Any, kwargs: Any, inputs: list[Tensor], through: str) -> Any:
        """A call as torch makes it: views, and whatever no rule is known for, which may only have to do with gates."""
        hiding = [self.hidden[id(t)] for t in tensors(args, kwargs) if id(t) in self.hidden]
        masked = [t for t in tensors(args, kwargs) if id(t) in self.masks and t.dtype != torch.bool]
        if func in known.ESCAPES and (hiding or masked):
            raise UnsupportedNetwork(f"{self.here()}: {name_of(func)}() takes a value out of torch that depends on the input "
                                     f"in a hidden way: {(hiding or ['through a mask or an index'])[0]}")  # fmt: skip
        setting = func == torch.Tensor.__setitem__ or func == known.SET_DATA
        writes = setting or known.in_place(func, args, kwargs)
        if writes and (hiding or (inputs and (not torch.is_grad_enabled() or func == known.SET_DATA))):
            self._write(args[0], hiding[0] if hiding else through or "data")
        if inputs and torch.is_grad_enabled():
            self._all_seen(func, args, kwargs)
        # channels-last maps cannot always be viewed; the values are the same
        found = torch.Tensor.reshape(*args, **kwargs) if func is torch.Tensor.view and inputs else func(*args, **kwargs)
        outputs = tensors((found,), {})
        if outputs:
            self.kept.append(found)
        if setting and args[0].requires_grad:
            self.unknown[args[0].grad_fn] = f"{self.here()}: no rule is known for values that are written into a tensor"
        if not inputs and not hiding and not any(id(t) in self.masks for t in tensors(args, kwargs)):
            return found
        view = func in known.VIEWS
        for output in outputs:
            if output.requires_grad:
                self.gates.pop(id(output), None)
                if view:
                    self._tag("view", func, args, inputs, output, tuple(kwargs[k] for k in _DIMS if k in kwargs))
                elif func not in known.SHAPED:
                    mixed = func in known.MEANS
                    words = "a mean over images has no rule" if mixed else f"no rule is known for {name_of(func)}()"
                    self.unknown[output.grad_fn] = f"{self.here()}: {words}"
                    if func in known.BOUNDED:
                        self.gates[id(output)] = known.BOUNDED[func]
            elif func not in known.SHAPED:
                if output.dtype == torch.bool or (not hiding and not (inputs and output.is_floating_point())):
                    self.masks.add(id(output))
                else:
                    self.hidden[id(output)] = hiding[0] if hiding else through
        if any(o.requires_grad for o in outputs):
            self.used(inputs)
        return found

    def _write(self, x: Tensor, through: str) -> None:
        """Something hidden is written into `x`: an error if a tensor of the trace shares its memory."""
        place = x.untyped_storage().data_ptr()
        if x.requires_grad or any(isinstance(t, Tensor) and t.requires_grad and t.untyped_storage().data_ptr() == place
                                  for t in self.kept):  # fmt: skip
            raise UnsupportedNetwork(f"{self.here()}: a tensor of the trace is written to in a way that is hidden ({through})")

    def _all_seen(self, func: Any, args: Any, kwargs: Any) -> None:
        """An error if a constant of a call depends on the input in a way that was not seen."""
        for t in tensors(args, kwargs):
            if not t.requires_grad and id(t) in self.hidden:
                raise UnsupportedNetwork(f"{self.here()}: {name_of(func)}() gets a value that depends on the input "
                                         f"unseen: {self.hidden[id(t)]}; let gradients pass there, or take a method "
                                         "that asks for probabilities alone, such as lime or elime")  # fmt: skip
            if not t.requires_grad and id(t) in self.masks and func in known.ADDITIONS | known.SUBTRACTIONS:
                raise UnsupportedNetwork(f"{self.here()}: a mask made of the input is added to it, for which no rule is known")

    def _tag(self, kind: str, func: Any, args: Any, inputs: list[Tensor], output: Tensor, dims: tuple[Any, ...] = ()) -> None:
        """Keep account of which tensors are gates, and of which have another axis than the images' first."""
        rank = min((self.gates.get(id(x), 0) for x in inputs), default=0)
        if func in known.BOUNDED:
            rank = known.BOUNDED[func]
        elif func in known.ELEMENTWISE and func in known.named("clamp", "clip"):
            rank = 1 if len(args) > 2 else 0
        elif kind in ("activation", "mixing", "sum") and (kind != "sum" or len(inputs) > 1):
            rank = 0
        elif kind in ("linear", "norm"):
            rank = rank if rank == 3 else 0  # attention weights that are mixed are attention weights
        if rank:
            self.gates[id(output)] = rank
        axis = self.axes.get(id(inputs[0]), 0)
        if kind == "view":
            axis = axis_behind(func, (*args, *dims), axis, inputs[0], output)
        elif axis:
            self.tape.moved = True
        if axis:
            self.axes[id(output)] = axis

    def _of_one_dtype(self, args: Any, kwargs: Any, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
        """Parameters and other constants in the dtype of what depends on the input."""

        return self._cast(tuple(args), dtype), {k: self._cast(v, dtype) for k, v in kwargs.items()}

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if type(value) in (list, tuple):
            return type(value)(self._cast(v, dtype) for v in value)
        if not isinstance(value, Tensor) or value.requires_grad or not value.is_floating_point() or value.dtype == dtype:
            return value
        found = value.detach().to(dtype)
        self.kept += [found, value]
        for table in (self.tape.names, self.hidden):
            if id(value) in table:
                table[id(found)] = table[id(value)]
        if id(value) in self.masks:
            self.masks.add(id(found))
        return found

    def _mean(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        """A mean or sum where the images are on another axis than the first: they are brought there and back."""
        x, axis = args[0], self.axes[id(args[0])]
        dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
        dims = [d % x.ndim for d in ([dims] if isinstance(dims, int) else dims or range(x.ndim))]
        keep = kwargs.get("keepdim", args[2] if len(args) > 2 else False)
        front = self.call(torch.movedim, x, axis, 0)
        found = self.call(func, front, [0 if d == axis else d + (d < axis) for d in dims], keep)
        return cast(Tensor, self.call(torch.movedim, found, 0, axis - (0 if keep else sum(d < axis for d in dims))))

    def _broadcast(self, args: Any) -> tuple[Any, list[Tensor]]:
        """Both operands of a sum or product, those that depend on the input in the shape of the result."""
        shape = torch.broadcast_shapes(*(a.shape for a in args[:2] if isinstance(a, Tensor)))
        wide = [
            self.call(torch.Tensor.expand, a, shape) if isinstance(a, Tensor) and a.requires_grad and a.shape != shape else a
            for a in args[:2]
        ]
        return (*wide, *args[2:]), dependent(wide, {})

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
            if value.requires_grad and value.is_leaf and value is not self.start:  # of a module that is not registered
                constant = value.detach()
                self.kept += [constant, value]
                return constant
            return value
        return type(value)(map(self._now, value)) if type(value) in (list, tuple) else value

    def _pad(self, x: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
        if mode == "circular":  # torch writes into a larger tensor
            for axis, (low, high) in enumerate(zip(pad[::2], pad[1::2], strict=True), 1):
                parts = (x.narrow(-axis, x.shape[-axis] - low, low), x, x.narrow(-axis, 0, high))
                x = self._native(torch.cat, (parts, -axis), {}, [x], "cat()")
            return x
        if mode != "constant":
            return cast(Tensor, self._native(F.pad, (x, list(pad), mode), {}, [x], "pad()"))
        output = self.meet("selection", F.pad, (x, list(pad), mode, value or 0.0), {}, [x])
        self._tag("view", F.pad, (), [x], output)
        if not value and len(pad) <= 4 and min(pad) >= 0 and x.ndim == 4:
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
        self.candidates = candidates

    def meet(self, kind: str, function: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> Tensor:
        if self.met == len(self.tape.operations):
            raise UnsupportedNetwork("the network's second pass differs from its first")
        operation = self.tape.operations[self.met]
        self.met += 1
        inputs = self.sources_of(operation, inputs)
        return cast(Tensor, Back.apply(self.tape, operation, self.candidates, *inputs))

    def end(self) -> None:
        if self.met != len(self.tape.operations):
            raise UnsupportedNetwork("the network's second pass differs from its first")


def tensors(args: Any, kwargs: Any) -> list[Tensor]:
    """All tensors among the arguments of a call, in lists, too."""
    found: list[Tensor] = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += tensors(value, {})
    return found


def dependent(args: Any, kwargs: Any) -> list[Tensor]:
    """Those that depend on the network's input."""
    return [t for t in tensors(args, kwargs) if t.requires_grad]


def is_matrix(value: Any) -> bool:
    """Whether a factor is a constant matrix, as a dense layer has it."""
    return isinstance(value, Tensor) and value.ndim == 2 and not value.requires_grad


def over_images(args: Any, kwargs: Any) -> bool:
    """Whether a mean or sum goes over the first axis."""
    dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
    dims = [dims] if isinstance(dims, int) else dims
    return not dims or any(d in (0, -args[0].ndim) for d in dims)


def name_of(function: Any) -> str:
    return str(getattr(function, "__name__", function))


_DIMS = ("dim", "dims", "dim0", "dim1", "axis", "source", "destination")  #: arguments of views that name axes, in order
