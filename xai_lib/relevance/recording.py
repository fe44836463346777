"""One forward pass, recorded, and relevance sent back through it as often as wanted.

Nothing of the network is changed. While the network runs, every call of a torch function on a tensor that depends on the
input is seen (`TorchFunctionMode`), whether a module makes it or the code of `forward`: convolutions and dense layers,
batch norms (taken into the convolution before them), activations, pooling, sums of branches. So residual networks,
concatenations and functional calls need no preparation, and whatever no rule is known for is an error, not a wrong map.

A population of P candidates goes back as one batch: the network's code runs a second time on P expanded copies of the
recorded outputs, where no layer is computed again, and autograd carries relevance through views and concatenations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from xai_lib.allocator import keep_freed_memory
from xai_lib.explanation import left_as_it_was
from xai_lib.relevance.calls import Mode, Recorder, Replay
from xai_lib.relevance.layers import Layer
from xai_lib.relevance.operations import Ledger, Operation, Tape, UnsupportedNetwork, unpooled
from xai_lib.relevance.rules import Epsilon, RelevanceError, Rule


class RuleChoice(Protocol):
    """What assigns rules to layers: see `explainers.lrp.Composite`."""

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
        super().__init__(network, earlier.layers if earlier is not None else {})
        layout = torch.channels_last if inputs.ndim == 4 else torch.contiguous_format
        self.inputs = inputs.detach().contiguous(memory_format=layout)
        self._graphs: dict[int, tuple[Tensor, Tensor]] = {}
        self._choice: RuleChoice | None = None
        self._values: Tensor | None = None
        self._ledger: Ledger | None = None
        self._groups: Sequence[int] = ()
        self._graphs[1] = self._run(self.inputs, Recorder(self))
        self.logits = self._graphs[1][1].detach()
        if self.logits.ndim != 2:
            raise UnsupportedNetwork(f"expected logits (N, classes), found {tuple(self.logits.shape)}")
        if not self.weighted:
            raise UnsupportedNetwork(f"{type(network).__name__} has no convolution or dense layer")

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
            self._graphs[candidates] = self._run(copies, Replay(self, candidates))
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

    def _run(self, inputs: Tensor, mode: Mode) -> tuple[Tensor, Tensor]:
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
        assert self._choice is not None
        if operation.kind == "max" and not self._choice.averages:
            return [unpooled(operation, r)]
        rule = self._choice.rule(operation, self)
        place = max(operation.index, 0)
        own = self._values is None
        value = rule.value if own else cast(Tensor, self._values)[:, self._groups[place]]
        if operation.kind == "sum":
            found = rule.share(operation.inputs, r, value)
        elif operation.kind in ("pool", "max"):
            rule = rule.pooled()
            found = [rule.redistribute(cast(Layer, operation.layer), operation.state(rule), r, value)]
        elif operation.kind == "scale" and not isinstance(rule, Epsilon):
            found = [r]  # one input a unit: all of it
        else:
            layer, state = cast(Layer, operation.layer), operation.state(rule)
            found = [rule.redistribute(layer, state, r, value)]
            if self._ledger is not None:
                kept = rule.absorbed(layer, state, r, value)
                self._ledger.biases = self._ledger.biases + kept
                self._ledger.layers.append((layer.name, r.flatten(2).sum(2), kept))
        return found

    def __repr__(self) -> str:
        return f"Recording({tuple(self.inputs.shape)}, {len(self.linear)} layers)"
