"""What a network's last layer means: logits of exclusive classes, their probabilities, or independent labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

Meaning = Literal["logits", "probabilities", "sigmoid"]
Select = Callable[[Any], Tensor]
Output = Meaning | Select | tuple[Select, Meaning] | None

_ENDS = {"SoftmaxBackward0": "softmax", "SigmoidBackward0": "sigmoid"}
_VIEWS = (
    "View", "Reshape", "UnsafeView", "Squeeze", "Unsqueeze", "Select", "Slice", "Clone", "ToCopy", "Alias", "Transpose",
    "Permute", "TBackward",
)  # fmt: skip


class Core(nn.Module):
    """From normalised images to logits: a network, what is selected of its answer, and how that is read."""

    def __init__(self, network: nn.Module, select: Select | None, meaning: Meaning | None) -> None:
        super().__init__()
        self.network, self.select = network, select
        readers: dict[Any, Callable[[Any], Tensor]] = {"probabilities": log_of_probabilities, "sigmoid": Labels()}
        self.read = readers.get(meaning)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits `(N, classes)` of normalised images `(N, C, H, W)`."""
        answer = self.network(inputs)
        answer = answer if self.select is None else self.select(answer)
        return cast(Tensor, answer if self.read is None else self.read(answer))


def parts(output: Output) -> tuple[Select | None, Meaning | None]:
    """What is selected of a network's answer, and what it means; `ValueError` for anything but an `Output`."""
    select, meaning = output if isinstance(output, tuple) and len(output) == 2 else (output, None)
    if not callable(select) and meaning is None:
        select, meaning = None, cast("Meaning | None", select)
    if not (select is None or callable(select)) or meaning not in (None, *get_args(Meaning)):
        raise ValueError(output)
    return select, meaning


def last_step(answer: Tensor) -> str | None:
    """ "softmax" or "sigmoid" if that is what made `answer`, by its graph, views aside; "" for another step.

    None: the graph does not say. There is none, or its node is a function with a gradient of its own, as those
    by which relevance is handed back.
    """
    node = answer.grad_fn
    while node is not None and node.name().startswith(_VIEWS):
        node = next((n for n, _ in node.next_functions if n is not None), None)
    if node is None or isinstance(node, torch.autograd.function.BackwardCFunction):
        return None
    return _ENDS.get(node.name(), "")


def look_like_probabilities(answer: Tensor) -> bool:
    """Whether every row `(N, classes)` lies in 0..1 and sums to 1."""
    rows = answer.detach().double()
    sums = (rows.sum(1) - 1).abs()
    return rows.shape[1] > 1 and bool((rows >= 0).all()) and bool((sums < 1e-3 * (1 + rows.shape[1] ** 0.5)).all())


def log_of_probabilities(answer: Any) -> Tensor:
    """Logits whose softmax are the given probabilities; 0 counts as the least number of the format."""
    values = cast(Tensor, answer)
    return values.clamp(min=torch.finfo(values.dtype).tiny).log()


def logit_of_probabilities(answer: Any) -> Tensor:
    """The inverse of the sigmoid, its ends as far out as the format allows."""
    values = cast(Tensor, answer)
    info = torch.finfo(values.dtype)
    return values.clamp(info.tiny, 1 - info.eps).logit()


class Labels:
    """Logits of independent labels, whether the network ends in a sigmoid or before it."""

    def __init__(self) -> None:
        self.squashed: bool | None = None  #: values behind a sigmoid; None: not known yet

    def __call__(self, answer: Any) -> Tensor:
        if not isinstance(answer, Tensor):
            return answer  # what it is instead is said where logits are checked
        step = last_step(answer)
        if step is not None:
            self.squashed = step == "sigmoid"
        elif self.squashed is None:  # without a graph there is only what the values look like
            self.squashed = bool((answer >= 0).all() and (answer <= 1).all())
        return logit_of_probabilities(answer) if self.squashed else answer


def log_odds(logits: Tensor, independent: bool) -> Tensor:
    """The log-odds of every class, from logits `(N, classes)`.

    Parameters
    ----------
    logits : Tensor
        `(N, classes)`, of any floating format; half formats are widened to float32.
    independent : bool
        Labels that do not exclude each other: the logit is the log-odds. Otherwise
        z_t - logsumexp(z of the others), which has the direction of the gradient of the softmax
        probability and does not vanish where that rounds to 0 or 1.

    Returns
    -------
    Tensor
        `(N, classes)`, float32 or float64, differentiable.
    """
    z = logits if logits.dtype == torch.float64 else logits.float()
    if independent:
        return z
    classes = z.shape[1]
    if classes < 2:
        raise ValueError("log-odds need two classes or independent labels")
    total = z.logsumexp(1, keepdim=True)
    top = z.argmax(1, keepdim=True)
    rest = (z - total).scatter(1, top, -torch.inf)  # log p of the others, at most log(1/2): 1 - p cancels nothing
    odds = rest - torch.log1p(-rest.exp())
    others = z.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True)
    return odds.scatter(1, top, z.gather(1, top) - others)
