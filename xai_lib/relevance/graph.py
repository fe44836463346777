"""The autograd graph of a pass, from the logits to the input: every node that relevance passes must have been seen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from torch import Tensor

from xai_lib.relevance.functions import VIEW_NODES
from xai_lib.relevance.operations import Back, Operation, UnsupportedNetwork

KNOWN = (
    "known are convolutions, dense layers, normalisations, elementwise activations, attention, pooling, sums, products and "
    "concatenations of branches"
)
OURS: Any = cast(Any, Back)._backward_cls


def carrying(output: Tensor) -> Iterator[Any]:
    """Each node that relevance passes on its way from `output`; gates are left out."""
    waiting: list[Any] = [output.grad_fn]
    seen = {output.grad_fn}
    while waiting:
        node = waiting.pop()
        yield node
        following = node.next_functions
        if isinstance(node, OURS):
            following = [f for i, f in enumerate(following) if i not in node.operation.gates]
        for below, _ in following:
            if below is not None and below not in seen:
                seen.add(below)
                waiting.append(below)


def check(logits: Tensor, inputs: Tensor, unknown: dict[Any, str]) -> set[int]:
    """The identities of the operations that relevance passes.

    Raises `UnsupportedNetwork` unless whatever it passes is a recorded operation, a view or the input. `unknown`: nodes of
    calls without a rule, in words.
    """
    reached, live = False, set()
    for node in carrying(logits):
        if node in unknown:
            raise UnsupportedNetwork(f"{unknown[node]}; {KNOWN}")
        name = str(node.name())
        if isinstance(node, OURS):
            live.add(id(node.operation))
            continue
        if is_view(name):
            continue
        if name.split("::")[-1] == "AccumulateGrad":
            reached = reached or node.variable is inputs
            continue
        raise UnsupportedNetwork(f"{name.removesuffix('Backward')}: an operation that the trace of the forward pass did not see "
                                 "(a custom autograd.Function, or compiled or scripted code) has no rule; write it with "
                                 "functions of torch")  # fmt: skip
    if not reached:
        raise UnsupportedNetwork("no relevance reaches the input: the logits depend on it through gates alone")
    return live


def is_view(name: str) -> bool:
    """Whether a node of that name moves values and changes none."""
    return name.split("::")[-1].rstrip("0123456789") in VIEW_NODES


def before(x: Tensor) -> list[Operation]:
    """The recorded operations between the network's input and `x`."""
    if x.grad_fn is None:
        return []
    return [node.operation for node in carrying(x) if isinstance(node, OURS)]
