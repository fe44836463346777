"""One forward pass, recorded, and relevance sent back through it as often as wanted.

Nothing of the network is changed. While the network runs, every call of a torch function on a tensor that depends on the
input is seen (`TorchFunctionMode`), whether a module makes it or the code of `forward`: convolutions and dense layers,
batch norms (taken into the convolution before them), activations, pooling, sums of branches, normalisations, attention. So
residual networks, concatenations and functional calls need no preparation. Whatever no rule is known for, or that the trace
did not see (it is compared with the autograd graph), is an error, not a wrong map.

Products of two branches: the gate counts as a constant and the signal gets all ("signal takes all", Arras et al. 2019), the
gate being what ends in a sigmoid or softmax, else what is the same for whole axes, else what lies between two limits.
Factors of which neither is a gate get half each (Achtibat et al. 2024). Attention weights are gates. What only a gate
depends on needs no rule. A constant that is added keeps its part, as a bias does.

A population of P candidates goes back as one batch: the network's code runs a second time on P expanded copies of the
recorded outputs, where no layer is computed again, and autograd carries relevance through views and concatenations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from xai_lib.allocator import keep_freed_memory
from xai_lib.explanation import left_as_it_was
from xai_lib.relevance import bounds, graph
from xai_lib.relevance.calls import Mode, Replay
from xai_lib.relevance.layers import Layer
from xai_lib.relevance.operations import (
    Ledger,
    Operation,
    Tape,
    UnsupportedNetwork,
    of_images,
    selected,
    unpooled,
)
from xai_lib.relevance.recorder import BesideItsNorm, Recorder
from xai_lib.relevance.rules import Epsilon, RelevanceError, Rule, Value, ZBox


class RuleChoice(Protocol):
    """What assigns rules to layers: see `explainers.lrp.Composite`."""

    first: Rule | None  #: of the layer that sees the pixels
    averages: bool  #: max pooling is sent back as average pooling over the same windows

    def rule(self, operation: Operation, recording: Recording) -> Rule: ...


class Recording(Tape):
    """A forward pass of `inputs` `(N, C, H, W)`, as the network wants them, in their dtype.

    The network is put into evaluation mode for the pass and left as it was. `layers` of an earlier recording of the same
    network share what depends on weights alone. Raises `UnsupportedNetwork`.
    """

    def __init__(self, network: nn.Module, inputs: Tensor, earlier: Recording | None = None) -> None:
        keep_freed_memory()
        if not isinstance(inputs, Tensor) or inputs.ndim < 2 or not inputs.is_floating_point():
            found = f"{tuple(inputs.shape)} of {inputs.dtype}" if isinstance(inputs, Tensor) else type(inputs).__name__
            raise RelevanceError(f"inputs: expected floats (N, C, H, W), normalised as the network wants them; found {found}")
        if any(isinstance(m, torch.jit.ScriptModule) for m in network.modules()):
            raise UnsupportedNetwork(
                f"{type(network).__name__}: a scripted network shows none of its layers; give the module that it was made from"
            )
        super().__init__(network, earlier.layers if earlier is not None else {})
        layout = torch.channels_last if inputs.ndim == 4 else torch.contiguous_format
        self.inputs = inputs.detach().contiguous(memory_format=layout)
        self._graphs: dict[int, tuple[Tensor, Tensor]] = {}
        self._choice: RuleChoice | None = None
        self._values: Tensor | None = None
        self._ledger: Ledger | None = None
        self._groups: Sequence[int] = ()
        self._boxes: dict[Any, tuple[Rule, Rule]] = {}
        self.apart = earlier.apart if earlier is not None else set()
        while 1 not in self._graphs:
            try:
                self._graphs[1] = self.run(self.inputs, Recorder(self))
            except BesideItsNorm as beside:
                self.apart.add(beside.norm)
                self.operations.clear()
                self.layers.clear()
        self.logits = self._graphs[1][1].detach()
        if self.logits.ndim != 2:
            raise UnsupportedNetwork(f"expected logits (N, classes), found {tuple(self.logits.shape)}")
        if not self.weighted:
            raise UnsupportedNetwork(f"{type(network).__name__} has no convolution or dense layer")
        if not bool(self.logits.isfinite().all()):
            raise UnsupportedNetwork(
                f"{type(network).__name__} gives logits that are not finite (NaN or infinity): no relevance can be made of them; "
                "check its weights and the normalisation of the inputs"
            )
        if self.moved and len(self.inputs) > 1:
            raise UnsupportedNetwork(
                f"{type(network).__name__} has images on another axis than the first inside; give it one image at a time"
            )

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
        if self.moved and candidates > 1:
            options = [None] * candidates if values is None else list(values[:, None])
            pairs = zip(start[:, None], options, strict=True)
            return torch.cat([self.relevance(s, choice, v, groups, ledger) for s, v in pairs])
        if choice.first is not None:
            bounds.check(self)
        if candidates not in self._graphs:
            copies = self.inputs.expand(candidates, *self.inputs.shape).flatten(0, 1)
            self._graphs[candidates] = self.run(copies, Replay(self, candidates))
        inputs, logits = self._graphs[candidates]
        self._choice, self._values, self._groups, self._ledger = choice, values, groups, ledger
        (found,) = torch.autograd.grad(logits, inputs, start.to(logits).flatten(0, 1), retain_graph=True)
        return found.unflatten(0, (candidates, -1))

    @property
    def nbytes(self) -> int:
        """The memory that this pass and what the rules keep of it take; weights are shared and do not count."""
        every = [s for o in self.operations for s in (o, *o.sides)]
        tensors = [t for o in every for t in (*o.inputs, o.output, *(v for s in o.states.values() for v in s.values()))]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if isinstance(t, Tensor)}
        return sum(storages.values())

    def run(self, inputs: Tensor, mode: Mode) -> tuple[Tensor, Tensor]:
        """A pass under a mode: the input as a leaf of the graph, and the logits."""
        with left_as_it_was(self.network), torch.enable_grad():
            self.network.requires_grad_(False)
            start = inputs.detach().requires_grad_()
            mode.start = start
            mode.kept.append(start)
            with mode:
                logits = self.network(start)
        if not isinstance(logits, Tensor) or not logits.requires_grad:
            raise UnsupportedNetwork("the network's output is no tensor that depends on its input")
        if isinstance(mode, Recorder):
            live = graph.check(logits, start, mode.unknown)
            for operation in self.operations:
                operation.live = id(operation) in live
        mode.end()
        return start, logits

    # the way back, operation by operation; `r` is (P, N, ...)

    def back(self, operation: Operation, r: Tensor) -> list[Tensor | None]:
        if operation.kind == "pass":
            return [r]
        if operation.kind == "product":
            share = r if operation.gates else r / 2
            return [None if i in operation.gates else share for i in range(2)]
        assert self._choice is not None
        if operation.kind == "max" and not self._choice.averages:
            return [unpooled(operation, r)]
        if operation.kind == "selection":
            return self._selected(operation, r)
        rule = self._choice.rule(operation, self)
        place = max(operation.index, 0)
        own = self._values is None
        value = rule.value if own else cast(Tensor, self._values)[:, self._groups[place]]
        if operation.kind == "sum":
            return [*rule.share(operation.inputs, r, value)]
        if operation.kind == "mixing":
            return self._mixed(operation, rule.pooled(), r, value)
        if operation.kind in ("pool", "max"):
            rule = rule.pooled()
            return [rule.redistribute(cast(Layer, operation.layer), operation.state(rule), r, value)]
        if operation.kind == "scale" and (not isinstance(rule, Epsilon) or self._before_pixels(operation)):
            return [r]  # one input a unit: all of it
        rule = self._boxed(rule) if isinstance(rule, ZBox) else rule
        layer, state = cast(Layer, operation.layer), operation.state(rule)
        found = rule.redistribute(layer, state, r, value)
        if self._ledger is not None:
            self._ledger.enter(rule.absorbed(layer, state, r, value), len(self.inputs), layer.name, r)
        return [found]

    def _before_pixels(self, operation: Operation) -> bool:
        """Whether an operation lies before a first layer that has a rule of its own: it changes no bounds' meaning."""
        return self._choice is not None and self._choice.first is not None and any(o is operation for o in self.pixels)

    def _boxed(self, rule: ZBox) -> Rule:
        """z^B with the bounds of what the first layer sees."""
        if self.direct:
            return rule
        if rule.kind not in self._boxes:  # kept with the rule, whose identity its kind knows
            self._boxes[rule.kind] = rule, bounds.carried(self, rule)
        return self._boxes[rule.kind][1]

    def _mixed(self, operation: Operation, rule: Rule, r: Tensor, value: Value) -> list[Tensor | None]:
        """Relevance of the factors of a product of matrices, gates left out, two signals half each."""
        share = r / (len(operation.sides) - len(operation.gates))
        found: list[Tensor | None] = []
        for i, side in enumerate(operation.sides):
            gate = i in operation.gates
            found.append(None if gate else rule.redistribute(cast(Layer, side.layer), side.state(rule), share, value))
        return found

    def _selected(self, operation: Operation, r: Tensor) -> list[Tensor | None]:
        found = selected(operation, r)
        if self._ledger is not None:  # the rest went to constants
            total = sum((of_images(f.flatten(2).sum(2), len(self.inputs)) for f in found), start=r.new_zeros(()))
            self._ledger.enter(of_images(r.flatten(2).sum(2), len(self.inputs)) - total, len(self.inputs))
        return [*found]

    def __repr__(self) -> str:
        return f"Recording({tuple(self.inputs.shape)}, {len(self.linear)} layers)"
