"""Evaluation mode for a while: what a pass over a network may change, and its return to what it was."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@contextmanager
def left_as_it_was(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every mode, gradient, `requires_grad` and hook is as before.

    Whatever of it was compiled runs as it was written meanwhile: hooks and traces see nothing of a
    compiled call.
    """
    modes = [(m, m.training) for m in network.modules()]
    hooks = [(m, name, dict(getattr(m, name, {}))) for m, _ in modes for name in _HOOKS]
    grads = [(p, p.requires_grad, p.grad) for p in network.parameters()]
    network.eval()
    # without the compiler nothing was compiled, and importing it takes seconds
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    try:
        with eager:
            yield
    finally:
        for module, training in modes:
            module.training = training
        for module, name, before in hooks:
            now = getattr(module, name, {})
            for key in [k for k in now if k not in before]:
                del now[key]
        for parameter, requires_grad, grad in grads:
            if parameter.requires_grad != requires_grad:
                with torch.inference_mode(parameter.is_inference()):  # where it was made
                    parameter.requires_grad_(requires_grad)
            parameter.grad = grad
