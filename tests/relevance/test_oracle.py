"""RAP and LRP against the RAP authors' own layers (oracles/rap_lrp.npz), at the pixels and at every layer."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.relevance.networks import Res, Vgg
from xai_lib.explainers import lrp, rap
from xai_lib.relevance import Convolution, Dense, Recording, ZBox

ORACLE = Path(os.environ.get("XAI_DATA_HOME", "absent")).parent / "oracles" / "rap_lrp.npz"
REASON = "the authors' results (oracles/rap_lrp.npz) are not beside XAI_DATA_HOME"
pytestmark = [pytest.mark.skipif(not ORACLE.is_file(), reason=REASON), pytest.mark.usefixtures("one_thread")]
both = pytest.mark.parametrize("name", ["vgg", "res"])
logits = pytest.mark.parametrize("which", ["top", "low"])


@cache
def oracle() -> dict[str, Tensor]:
    with np.load(ORACLE) as arrays:
        return {k: torch.from_numpy(arrays[k]) for k in arrays.files}


def network(name: str) -> nn.Module:
    found = {"vgg": Vgg, "res": Res}[name]().double().eval()
    prefix = f"{name}.state."
    state = {k.removeprefix(prefix): v for k, v in oracle().items() if k.startswith(prefix)}
    missing, unexpected = found.load_state_dict(state, strict=False)
    assert not unexpected and all(m.endswith("num_batches_tracked") for m in missing)
    return found


def box() -> tuple[Tensor, Tensor]:
    low, high = (oracle()[k].view(-1, 1, 1, 1) for k in ("zbox_low", "zbox_high"))
    return low, high


def gap(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max() / wanted.abs().max())


@both
def test_the_logits_are_the_authors(name: str) -> None:
    found = network(name)(oracle()["input"])
    assert gap(found.detach(), oracle()[f"{name}.output"]) < 1e-12
    recorded = Recording(network(name), oracle()["input"]).logits
    assert gap(recorded, oracle()[f"{name}.output"]) < 1e-12


@both
@logits
def test_rap_at_the_pixels(name: str, which: str) -> None:
    x, targets = oracle()["input"], oracle()[f"{name}.{which}.target"]
    wanted = oracle()[f"{name}.{which}.rap"]
    assert gap(rap.relevance(network(name), x, targets, zbox=box()), wanted) < 1e-9
    assert gap(rap.relevance(network(name), x, targets), wanted) < 1e-9  # the bounds are each image's own anyway
    sums = wanted.flatten(1).sum(1)
    torch.testing.assert_close(sums, oracle()[f"{name}.output"].gather(1, targets[:, None])[:, 0], rtol=1e-9, atol=1e-9)


@both
@logits
@pytest.mark.parametrize("alpha", [1, 2])
def test_alpha_beta_at_the_pixels(name: str, which: str, alpha: int) -> None:
    x, targets = oracle()["input"], oracle()[f"{name}.{which}.target"]
    found = lrp.relevance(network(name), x, targets, lrp.alpha_beta(alpha, zbox=box(), bias="ignore"))
    assert gap(found, oracle()[f"{name}.{which}.lrp_alpha{alpha}"]) < 1e-7  # theirs adds 1e-9 in two places


def at_layers(name: str, composite: lrp.Composite, unit: bool) -> dict[str, Tensor]:
    """The relevance that each convolution and dense layer hands to its input."""
    found: dict[str, Tensor] = {}

    class Watched(Recording):
        def back(self, operation: Any, r: Tensor) -> list[Tensor]:
            shares = super().back(operation, r)
            if isinstance(operation.layer, Convolution | Dense):
                found[operation.layer.name] = shares[0][0]
            return shares

    recording = Watched(network(name), oracle()["input"])
    start = lrp.start_of(recording, oracle()[f"{name}.top.target"], unit=unit)
    lrp.propagate(recording, composite, start[None])
    return found


@both
def test_rap_at_every_layer(name: str) -> None:
    composite = lrp.Composite("rap", rap.Criterion(), rap.Criterion(of_dense=True), ZBox(*box()), rap.Start())
    check(name, "rap_at", at_layers(name, composite, unit=True), 5 if name == "vgg" else 16)


@pytest.mark.parametrize("alpha", [1, 2])
def test_alpha_beta_at_every_layer(alpha: int) -> None:
    composite = lrp.alpha_beta(alpha, zbox=box(), bias="ignore")
    check("vgg", f"lrp_alpha{alpha}_at", at_layers("vgg", composite, unit=False), 5)


def check(name: str, kind: str, found: dict[str, Tensor], layers: int) -> None:
    prefix, compared = f"{name}.top.{kind}.", 0
    for key, wanted in oracle().items():
        layer = key.removeprefix(prefix)
        if key.startswith(prefix) and layer in found:
            assert gap(found[layer].reshape(wanted.shape), wanted) < 1e-7, key
            compared += 1
    assert compared == layers
