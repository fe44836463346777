"""Weights on disk that fit, and files that do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from xai_lib import classifiers
from xai_lib.weights import WeightsError, fill

State = dict[str, Tensor]


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))


def renamed(state: State) -> State:
    return {f"module_{i}": value for i, value in enumerate(state.values())}


def without_last(state: State) -> State:
    return dict(list(state.items())[:-1])


def with_more(state: State) -> State:
    return state | {"0.weight.extra": torch.zeros(1)}


def test_by_position_takes_the_order_of_the_file(tmp_path: Path) -> None:
    source, target = network(), network()
    torch.save(renamed(source.state_dict()), tmp_path / "net.pth")
    fill(target, tmp_path / "net.pth", "net", by_position=True)
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


@pytest.mark.parametrize(
    ("change", "by_position", "message"),
    [
        (without_last, True, "net.pth does not fit net: expected 4 tensors in the network's order, found 3; missing from 2.bias"),
        (with_more, True, "expected 4 tensors in the network's order, found 5; unknown from 0.weight.extra on"),
        (lambda state: {}, True, "found 0; missing from 0.weight on"),
        (without_last, False, "1 tensors missing ['2.bias'], 0 unknown"),
        (with_more, False, "0 tensors missing [], 1 unknown ['0.weight.extra']"),
        (renamed, False, "4 tensors missing ['0.bias', '0.weight', '2.bias'], 4 unknown ['module_0'"),
        (lambda state: state | {"2.bias": torch.zeros(9)}, True, "1 of another shape [('2.bias', (9,), (2,))]"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_named_with_what_is_wrong(
    tmp_path: Path, change: Callable[[State], State], by_position: bool, message: str
) -> None:
    target = network()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    torch.save(change(dict(network().state_dict())), tmp_path / "net.pth")
    with pytest.raises(WeightsError) as caught:
        fill(target, tmp_path / "net.pth", "net", by_position)
    assert message in str(caught.value)
    assert all(torch.equal(before[name], value) for name, value in target.state_dict().items()), "the network is as it was"


def test_every_name_has_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XAI_WEIGHTS_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "own.safetensors").write_bytes(b"damaged")
    damaged = str(tmp_path / "own.safetensors")
    names = ["critters_mobilenet", "resnet18", "resnet5", "timm:no_such_network", damaged]
    found = classifiers.available(names)
    assert list(found) == names and found["critters_mobilenet"] == ""
    for name, reason in (
        ("resnet18", "not found"), ("resnet5", "no network is called 'resnet5'"), ("timm:no_such_network", "timm has no network"),
        (damaged, "own.safetensors"),
    ):  # fmt: skip
        assert reason in found[name]
