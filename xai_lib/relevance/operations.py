"""A recorded pass and its operations: what went in and came out, and their place in the graph of the way back."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from xai_lib.relevance.layers import Layer, Weighted
from xai_lib.relevance.rules import RelevanceError, Rule, State


class UnsupportedNetwork(RelevanceError):
    """A network with an operation that no rule is known for."""


@dataclass
class Operation:
    """One call: what it was, what went in, what came out. `index` counts convolutions and dense layers, from the input."""

    kind: str
    inputs: list[Tensor]
    output: Tensor
    index: int = -1
    layer: Layer | None = None
    indices: Tensor | None = None  #: of max pooling
    monotone: bool = False  #: elementwise, never decreasing or never increasing
    live: bool = True  #: relevance passes it, for it is not there for a gate alone
    gates: frozenset[int] = frozenset()  #: inputs that count as constants and get no relevance
    sides: list[Operation] = field(default_factory=list)  #: of a product of matrices: each factor, the other one held
    function: Callable[..., Tensor] | None = None  #: of a selection: the output from the inputs
    states: dict[Any, State] = field(default_factory=dict)

    def state(self, rule: Rule) -> State:
        """What the rule keeps of this image; made once."""
        if rule.kind not in self.states:
            assert self.layer is not None
            self.states[rule.kind] = rule.prepare(self.layer, self.inputs[0], self.output)
        return self.states[rule.kind]


@dataclass
class Ledger:
    """The relevance that biases, and other constants that are added or put beside, kept on the way back, `(P, N)`."""

    biases: Tensor | float = 0.0
    layers: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)
    """From the output to the input: a layer's name, its outputs' relevance in sum, and what its biases kept of it, `(P, N)`."""

    def enter(self, kept: Tensor, images: int, name: str = "", relevance: Tensor | None = None) -> None:
        """Account for `kept` `(P, M)`, M a multiple of the images: parts of an image, such as windows, follow each other."""
        self.biases = self.biases + of_images(kept, images)
        if relevance is not None:
            total = of_images(relevance.flatten(2).sum(2), images)
            self.layers.append((name, total, of_images(kept, images)))


def of_images(x: Tensor, images: int) -> Tensor:
    """`(P, N)` from sums `(P, M)` of the parts of N images."""
    return x if x.shape[1] == images else x.unflatten(1, (images, -1)).sum(2) if images > 1 else x.sum(1, keepdim=True)


class Tape(ABC):
    """What a pass through `network` writes down, from the input to the output, and the way back through one operation.

    `layers`: convolutions and dense layers by number of their call; `weighted`: how many relevance passes; `names`: of
    layers, by weight.
    """

    def __init__(self, network: nn.Module, layers: dict[int, Weighted]) -> None:
        self.network, self.layers = network, layers
        self.operations: list[Operation] = []
        self.names = {id(p): n.rpartition(".")[0] for n, p in network.named_parameters()}
        self.weighted = 0
        self.apart: set[int] = set()  #: batch norms, by number, that no layer may take in
        self.pixels: list[Operation] = []  #: what lies between the input and the first layer
        self.direct = True  #: the first layer sees the input itself
        self.moved = False  #: some operation has another axis than the images' first

    @property
    def linear(self) -> list[Operation]:
        """The convolutions and dense layers that relevance passes, from the input to the output."""
        return [o for o in self.operations if o.kind == "linear" and o.live]

    def number(self) -> None:
        """Give each operation the number of the last layer up to it."""
        self.weighted = 0
        for operation in self.operations:
            self.weighted += operation.kind == "linear" and operation.live
            for each in (operation, *operation.sides):
                each.index = self.weighted - 1

    @abstractmethod
    def back(self, operation: Operation, r: Tensor) -> list[Tensor | None]:
        """Relevance of the operation's inputs from that of its output, `(P, N, ...)`; None: a gate, which gets none."""


class Back(torch.autograd.Function):
    """Stands in the graph for an operation: its output is known, on the way back the rule decides."""

    @staticmethod
    def forward(ctx: Any, tape: Tape, operation: Operation, candidates: int, *inputs: Tensor) -> Tensor:
        # weak: the tape holds this graph, and Python's collector does not see cycles through autograd's nodes
        ctx.tape, ctx.operation, ctx.candidates = weakref.ref(tape), operation, candidates
        ctx.set_materialize_grads(False)
        output = operation.output
        if candidates == 1:
            return output.detach()
        return output.expand(candidates, *output.shape).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor | None) -> tuple[Any, ...]:
        if relevance is None:  # a gate, which gets none
            return None, None, None, *(None for _ in ctx.needs_input_grad[3:])
        r = relevance.unflatten(0, (ctx.candidates, -1))
        back = ctx.tape().back(ctx.operation, r)
        return None, None, None, *(None if f is None else f.flatten(0, 1) for f in back)


def unpooled(operation: Operation, r: Tensor) -> Tensor:
    """Relevance to the largest input of each window; channels last, as everything else."""
    x, indices = operation.inputs[0], cast(Tensor, operation.indices)
    places = indices.flatten(2).transpose(1, 2).expand(len(r), -1, -1, -1)  # (P, N, hw, C)
    found = r.new_zeros(*r.shape[:2], x[0, 0].numel(), r.shape[2])
    found.scatter_add_(2, places, r.flatten(3).transpose(2, 3))
    return found.view(*r.shape[:2], *x.shape[2:], -1).permute(0, 1, 4, 2, 3)


def selected(operation: Operation, r: Tensor) -> list[Tensor]:
    """Relevance to the inputs that the outputs were taken from; equal ones share it."""
    assert operation.function is not None
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in operation.inputs]
        output = operation.function(*inputs)
        found = [torch.autograd.grad(output, inputs, each, retain_graph=True) for each in r]
    return [torch.stack(each) for each in zip(*found, strict=True)]
