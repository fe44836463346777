"""Whatever is changed in a network changes its digest, and nothing else does, in this process or another."""

from __future__ import annotations

import copy
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xai_lib.classifiers.fingerprint import contents_of, structure_of


class Net(nn.Module):
    """Weights, a buffer, plain attributes, a tensor attribute, a hidden module, a configuration."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.act = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        self.head = nn.Linear(4, 2)
        self.scale = 1.0
        self.kept = torch.ones(3)
        self.hidden = [nn.Linear(2, 2)]
        self.settings = types.SimpleNamespace(gain=1.0, names={"a", "b"})
        self.gain = lambda x: x * 1.0
        self.lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm(self.conv(x))).mean((2, 3)) * self.scale
        return self.gain(self.hidden[0](self.head(y)))


def replaced(net: Net) -> None:
    inner = net.forward
    net.forward = lambda x: 2 * inner(x)  # type: ignore[method-assign]


VALUES: dict[str, Callable[[Net], Any]] = {
    "data": lambda n: n.head.weight.data.neg_(),
    "data of one weight": lambda n: n.head.weight.data.view(-1)[0].add_(1e-3),
    "rows swapped": lambda n: n.head.weight.data.copy_(n.head.weight.data.flip(0)),
    "buffer": lambda n: n.norm.running_mean.data.add_(1),
    "tensor attribute": lambda n: n.kept.data.add_(1),
    "hidden module": lambda n: n.hidden[0].weight.data.add_(1),
}
PARTS: dict[str, Callable[[Net], Any]] = {
    "attribute": lambda n: setattr(n, "scale", 2),
    "attribute of an attribute": lambda n: setattr(n.settings, "gain", 2.0),
    "constant of a function": lambda n: setattr(n, "gain", lambda x: x * 2.0),
    "replaced module": lambda n: setattr(n, "act", nn.Tanh()),
    "added module": lambda n: n.add_module("more", nn.Identity()),
    "forward": replaced,
    "hook": lambda n: n.conv.register_forward_hook(lambda m, i, o: 2 * o),
    "mode": lambda n: n.norm.train(),
    "shape": lambda n: setattr(n.head, "weight", nn.Parameter(torch.zeros(3, 4))),
    "dtype": lambda n: n.head.double(),
    "eps": lambda n: setattr(n.norm, "eps", 0.1),
    "padding": lambda n: setattr(n.conv, "padding", (1, 1)),
}


@pytest.mark.parametrize("name", [*VALUES, *PARTS])
def test_every_change_is_seen(name: str) -> None:
    net = Net().eval()
    before = contents_of(net), structure_of(net)
    assert before == (contents_of(net), structure_of(net))
    (VALUES | PARTS)[name](net)
    assert contents_of(net) != before[0]
    assert (structure_of(net) != before[1]) == (name in PARTS)


def test_changes_in_place_that_torch_counts_are_structure_too() -> None:
    net = Net()
    before = structure_of(net)
    with torch.no_grad():
        net.head.bias.add_(1)
    assert structure_of(net) != before


def test_a_method_replaced_on_the_class_is_seen() -> None:
    class Mine(Net):
        gain_of_class = 1.0

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    net = Mine()
    before = contents_of(net), structure_of(net)
    Mine.forward = lambda self, x: -Net.forward(self, x)  # type: ignore[method-assign]
    middle = contents_of(net), structure_of(net)
    Mine.gain_of_class = 2.0
    assert len({before[0], middle[0], contents_of(net)}) == len({before[1], middle[1], structure_of(net)}) == 3


def test_what_runs_and_trains_it_is_no_change() -> None:
    net = Net().eval()
    before = contents_of(net), structure_of(net)
    net(torch.ones(1, 3, 8, 8)).sum().backward()
    net.requires_grad_(False)
    net.conv.register_forward_hook(lambda *_: None).remove()
    assert (contents_of(net), structure_of(net)) == before


def test_equal_networks_have_equal_contents() -> None:
    one, other = Net(), Net()
    assert contents_of(one) == contents_of(other) and structure_of(one) != structure_of(other)
    assert contents_of(nn.Sequential(nn.ReLU())) != contents_of(nn.Sequential(nn.ReLU6()))
    shared = nn.Linear(2, 2)
    assert contents_of(nn.Sequential(shared, shared)) != contents_of(nn.Sequential(shared, copy.deepcopy(shared)))


def test_odd_networks_have_a_digest_too() -> None:
    quantised = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 2)), {nn.Linear})
    scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 2)))
    with torch.inference_mode():
        made = nn.Linear(4, 2)
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 2))
    for net in (quantised, scripted, made, normed, nn.DataParallel(nn.Linear(4, 2))):
        assert contents_of(net) == contents_of(net) and structure_of(net) == structure_of(net)
    before = contents_of(scripted)
    scripted.state_dict()["0.weight"].neg_()
    assert contents_of(scripted) != before


def test_contents_are_the_same_in_another_process() -> None:
    code = "from tests.test_fingerprint import Net, contents_of; print(contents_of(Net()).hex())"
    found = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert found == {contents_of(Net()).hex() + "\n"}
