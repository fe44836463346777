"""Pixel flipping and the symmetric relevance gain: a network whose order is known, and cells replaced one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.networks import picture, planted, tiny
from xai_lib.metrics.faithfulness import FaithfulnessError, Order, pixel_flipping, symmetric_relevance_gain

SIDE = 16
TARGETS = torch.tensor([0, 3, 1])
GRID = {"steps": 16, "cells": 4, "baseline": 0.0}


@pytest.fixture
def inputs() -> Tensor:
    return tiny().normalise(torch.stack([picture(s, SIDE) for s in range(3)]))


@pytest.fixture
def maps() -> Tensor:
    return torch.randn(3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def model() -> nn.Module:
    return tiny().network


@pytest.fixture
def board() -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """The planted network, two white pictures, their class, and the map that is true of them."""
    classifier, white, _ = planted()
    wanted = classifier.network.wanted.repeat_interleave(8, 0).repeat_interleave(8, 1)
    return classifier.network, white.expand(2, -1, -1, -1), torch.tensor([1, 1]), wanted.expand(2, -1, -1)


def test_the_true_order_gains_and_its_reverse_loses(board: tuple[nn.Module, Tensor, Tensor, Tensor]) -> None:
    model, white, targets, true = board
    gain = symmetric_relevance_gain(model, white, targets, true, **GRID)
    assert gain.shape == (2,) and bool((gain > 0.5).all())
    assert torch.equal(symmetric_relevance_gain(model, white, targets, -true, **GRID), -gain)
    assert torch.equal(symmetric_relevance_gain(model, white, targets, torch.ones_like(true), **GRID), torch.zeros(2))
    chance = torch.Generator().manual_seed(0)
    randomly = [
        symmetric_relevance_gain(model, white, targets, torch.randn(true.shape, generator=chance), **GRID) for _ in range(60)
    ]
    assert abs(float(torch.cat(randomly).mean())) < 0.1
    worst = torch.stack(randomly).abs().max()
    assert float(worst) < float(gain.min())


def test_curves_are_what_replacing_cells_one_by_one_gives(board: tuple[nn.Module, Tensor, Tensor, Tensor]) -> None:
    model, white, targets, _ = board
    maps = torch.randn(white.shape[0], *white.shape[2:], generator=torch.Generator().manual_seed(1))
    most = pixel_flipping(model, white, targets, maps, **GRID)
    squares = [(slice(8 * i, 8 * i + 8), slice(8 * j, 8 * j + 8)) for i in range(4) for j in range(4)]
    for n in range(2):
        changed, curve = white[n].clone(), []
        for square in [None, *sorted(squares, key=lambda s: -float(maps[n][s].sum()))]:
            if square:
                changed[:, square[0], square[1]] = 0
            curve.append(float(model(changed[None]).softmax(1)[0, 1]))
        assert most[n].tolist() == pytest.approx(curve, abs=1e-6)
    least = pixel_flipping(model, white, targets, maps, order="least", **GRID)
    area = ((least - most)[:, 1:] + (least - most)[:, :-1]).sum(1) / 2 / 16
    assert torch.allclose(symmetric_relevance_gain(model, white, targets, maps, **GRID), area, atol=1e-6)


@pytest.mark.parametrize("order", ["most", "least"])
@pytest.mark.parametrize("baseline", ["black", "mean", "white", 0.5])
def test_curves_begin_with_the_image_and_end_with_nothing_of_it(
    inputs: Tensor, maps: Tensor, order: Order, baseline: str | float
) -> None:
    network = model()
    curves = pixel_flipping(network, inputs, TARGETS, maps, steps=9, cells=5, baseline=baseline, order=order)
    values = {"black": inputs.amin((1, 2, 3)), "mean": inputs.mean((1, 2, 3)), "white": inputs.amax((1, 2, 3))}
    value = values.get(baseline, torch.full((3,), 0.5))  # type: ignore[call-overload]
    with torch.no_grad():
        whole = network(inputs).softmax(1)
        nothing = network(value.view(-1, 1, 1, 1).expand_as(inputs)).softmax(1)
    assert curves.shape == (3, 10) and not curves.requires_grad
    for n, target in enumerate(TARGETS.tolist()):
        assert float(curves[n, 0]) == pytest.approx(float(whole[n, target]), abs=1e-6)
        assert float(curves[n, -1]) == pytest.approx(float(nothing[n, target]), abs=1e-6)


def test_maps_with_channels_are_summed(inputs: Tensor) -> None:
    maps = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4))
    given = {"steps": 6, "cells": 4}
    one, two, three = (
        symmetric_relevance_gain(model(), inputs, TARGETS, m, **given) for m in (maps, maps.sum(1), maps.sum(1, True))
    )
    assert torch.equal(one, two) and torch.equal(two, three)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": "best"}, "order: expected most or least, found 'best'"),
        ({"cells": 17}, "expected cells of 1..16 and steps of 1..cells², found cells=17, steps=4"),
        ({"steps": 17}, "found cells=4, steps=17"),
        ({"maps": torch.rand(3, 8, 8)}, r"maps: expected \(3, \[1 or 3,\] 16, 16\), found \(3, 8, 8\)"),
        ({"maps": torch.full((3, SIDE, SIDE), float("nan"))}, "maps: found NaN or infinite values"),
    ],
)
def test_what_does_not_fit_is_named(inputs: Tensor, maps: Tensor, changes: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"maps": maps, "steps": 4, "cells": 4}
    with pytest.raises(FaithfulnessError, match=message):
        pixel_flipping(model(), inputs, TARGETS, **(given | changes))
