"""Whatever reaches the logits without being seen by the trace is an error in words; what does no harm is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.relevance.networks import pixels, small
from xai_lib.explainers import lrp
from xai_lib.relevance import Recording, UnsupportedNetwork

pytestmark = pytest.mark.usefixtures("one_thread")
X = pixels(2, 8)


class Swish(torch.autograd.Function):
    """As in the memory-efficient EfficientNet."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        s = torch.sigmoid(ctx.saved_tensors[0])
        return g * (s * (1 + ctx.saved_tensors[0] * (1 - s)))


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * 2


@torch.library.custom_op("xai_lib_tests::halved", mutates_args=())
def halved(x: Tensor) -> Tensor:
    return x / 2


@halved.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


halved.register_autograd(lambda ctx, g: g / 2)


@torch.jit.script
def scripted(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def conv(a: int = 3, b: int = 4) -> nn.Conv2d:
    return nn.Conv2d(a, b, 3, padding=1)


def under_no_grad(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        with torch.no_grad():
            return function(x)

    return run


def in_place(x: Tensor) -> Tensor:
    x.data.mul_(2)
    return x


def in_place_without_gradients(x: Tensor) -> Tensor:
    with torch.no_grad():
        x.mul_(2)
    return x


def through_an_alias(x: Tensor) -> Tensor:
    x.detach().add_(1)
    return x


def set_data(x: Tensor) -> Tensor:
    x.data = x.detach() * 2
    return x


def written(x: Tensor) -> Tensor:
    x = x * 1.0
    x[:, 0] = 0
    return x


def buffered(x: Tensor) -> Tensor:
    found = torch.zeros_like(x)
    found[:, :2] = x[:, :2]
    return found


def inference(x: Tensor) -> Tensor:
    with torch.inference_mode():
        hidden = x * 2
    return x + hidden.clone()


def data_dependent_weight(x: Tensor) -> Tensor:
    return F.conv2d(x, x.detach().mean() * torch.ones(4, 4, 1, 1, dtype=x.dtype))


BETWEEN: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "custom function": (Swish.apply, "Swish"),
    "custom linear function": (Twice.apply, "Twice"),
    "custom op": (halved, "halved|GeneratedBackward"),
    "op of aten": (torch.ops.aten.sin, "sin"),
    "scripted": (scripted, "Mul"),
    "detached branch": (lambda x: x + (x * 2).detach(), "unseen: detach"),
    "detached in place": (lambda x: x + (x * 2).detach_(), "unseen: detach_"),
    "data": (lambda x: x + x.data, "unseen"),
    "branch without gradients": (lambda x: x + under_no_grad(lambda y: F.silu(y) * 2)(x), "unseen: torch.no_grad"),
    "gate without gradients": (lambda x: x * under_no_grad(torch.sigmoid)(x), "unseen: torch.no_grad"),
    "concatenated": (lambda x: torch.cat([x[:, :2], x[:, 2:].detach()], 1), "unseen: detach"),
    "stacked": (lambda x: torch.stack([x, x.detach()]).sum(0), "unseen: detach"),
    "chosen": (lambda x: torch.where(x > 0, x, x.detach() * 0.1), "unseen: detach"),
    "padded": (lambda x: torch.maximum(x, x.detach().mean()), "unseen: detach"),
    "inference mode": (inference, "unseen: torch.no_grad|[Ii]nference"),
    "weights": (data_dependent_weight, "unseen: detach"),
    "number": (lambda x: x * float(x.max()), "takes values out of torch"),
    "item": (lambda x: x + x.mean().item(), "item.. takes values out of torch"),
    "list": (lambda x: x * x[0, 0, 0].tolist()[0], "tolist.. takes values out of torch"),
    "numpy": (lambda x: x + torch.from_numpy(np.tanh(x.detach().numpy())), "out of torch .*hidden way: detach"),
    "number of a count": (lambda x: x * (x > 0).sum().item(), "takes a value out of torch .* mask"),
    "number of a detached": (lambda x: x * x.detach().max().item(), "hidden way: detach"),
    "mask added": (lambda x: x + (x > 0), "a mask made of the input is added"),
    "in place through data": (in_place, "is written to in a way that is hidden"),
    "in place without gradients": (in_place_without_gradients, "is written to in a way that is hidden"),
    "in place through an alias": (through_an_alias, "is written to in a way that is hidden"),
    "data replaced": (set_data, "is written to in a way that is hidden"),
    "written in part": (written, "no rule is known for values that are written into a tensor"),
    "written into a buffer": (buffered, "no rule is known for values that are written into a tensor"),
    "rounded": (torch.round, "no rule is known for round"),
    "only a gate": (lambda x: torch.ones_like(x) * torch.sigmoid(x * 0 + x.exp()), "no rule is known for exp"),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_what_the_trace_does_not_see_is_refused(name: str) -> None:
    function, message = BETWEEN[name]
    network = small(lambda m, x: m[2](m[1](function(m[0](x))).mean((2, 3))), conv(), conv(4, 4), nn.Linear(4, 5))
    with torch.no_grad():
        assert network(X).shape == (2, 5)
    with pytest.raises(UnsupportedNetwork, match=message):
        Recording(network, X)
    assert torch._C._len_torch_function_stack() == 0 and all(p.requires_grad for p in network.parameters())


def test_two_streams_one_of_which_is_hidden() -> None:
    def streams(m: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            frozen = m[1](x).relu().mean((2, 3))
        return m[2](m[0](x).relu().mean((2, 3)) + frozen)

    with pytest.raises(UnsupportedNetwork, match=r"add\(\) gets a value that depends on the input unseen: torch.no_grad"):
        Recording(small(streams, conv(), conv(), nn.Linear(4, 5)), X)


def test_logits_that_are_not_finite_are_refused_in_words() -> None:
    network = small(lambda m, x: m[1](m[0](x).mean((2, 3))), conv(), nn.Linear(4, 5))
    network.m[1].weight.data[0] = float("nan")  # type: ignore[index, union-attr]
    with pytest.raises(UnsupportedNetwork, match="logits that are not finite .NaN or infinity."):
        Recording(network, X)


class Logging(nn.Module):
    """Keeps statistics and features of the pass, checks its input and asks for shapes: none of that reaches the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.end, self.average = nn.Conv2d(3, 4, 3), nn.Linear(4, 5), torch.zeros(4, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        assert not torch.isnan(x).any() and x.size(1) == 3
        x = self.conv(x).relu()
        self.features = x.detach()
        with torch.no_grad():
            self.average.mul_(0.9).add_(x.mean((0, 2, 3)), alpha=0.1)
            self.active = (x > 0).double().mean()
        noise = torch.zeros_like(x) + x.new_ones(x.shape) * 0
        return self.end((x + noise).mean((2, 3)))


def test_what_does_not_reach_the_logits_does_no_harm() -> None:
    network = Logging().double()
    plain = nn.Sequential(network.conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), network.end)
    for composite in (lrp.epsilon_plus(), lrp.alpha_beta(2.0, bias="spread")):
        torch.testing.assert_close(lrp.relevance(network, X, 1, composite), lrp.relevance(plain, X, 1, composite))


def test_masks_and_indices_are_constants_wherever_they_choose_or_multiply() -> None:
    ways: list[Callable[[Tensor], Tensor]] = [
        torch.relu, lambda x: x * (x > 0), lambda x: x * (x > 0).to(x.dtype), lambda x: torch.where(x > 0, x, 0.0),
        lambda x: x.masked_fill(x < 0, 0.0), lambda x: x.clamp(min=0), lambda x: torch.maximum(x, torch.zeros_like(x)),
    ]  # fmt: skip
    parts = conv(), conv(4, 4), nn.Linear(4, 5)
    maps = []
    for way in ways:
        network = small(lambda m, x, way=way: m[2](way(m[1](way(m[0](x)))).mean((2, 3))), *parts)
        maps.append(lrp.relevance(network, X, 1, lrp.epsilon_plus()))
    for found in maps[1:]:
        torch.testing.assert_close(found, maps[0])


def test_a_module_outside_of_the_network_may_have_trainable_weights() -> None:
    outside, parts = nn.Conv2d(4, 4, 1).double(), (conv(), nn.Linear(4, 5))
    network = small(lambda m, x: m[1](outside(m[0](x)).mean((2, 3))), *parts)
    inside = small(lambda m, x: m[1](m[2](m[0](x)).mean((2, 3))), *parts)
    inside.m.append(outside)  # type: ignore[union-attr, operator]
    torch.testing.assert_close(lrp.relevance(network, X, 1, lrp.epsilon_plus()), lrp.relevance(inside, X, 1, lrp.epsilon_plus()))
    assert all(p.requires_grad for p in outside.parameters())
