"""Method cards: measured numbers by hand on a known case, cards as the command wrote them, and where they are shown."""

from __future__ import annotations

import json
import pydoc
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from xai_lib import explainers
from xai_lib.cards import measuring, rendering
from xai_lib.cards.networks import Contract
from xai_lib.classifiers import Classifier
from xai_lib.explanation import Explainer, UnknownExplainer, registered
from xai_lib.images import View

MEASURED: dict[str, dict[str, Any]] = json.loads((explainers.CARDS / "measured.json").read_text())


class Linear(nn.Module):
    """Class c's logit is the sum of the pixels times a fixed picture of weights, and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(3 * 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x.flatten(1))


class Exact(Explainer):
    """Weight times value, which sums to the logit less its constant; counts as one call."""

    title, source, needs, cost, signed = "exact", "none", "layers", "1", True

    def explain_image(
        self, classifier: Classifier, image: Tensor, target: int, settings: Any, rng: np.random.Generator
    ) -> tuple[Tensor, int, dict[str, Any]]:
        weight = classifier.network.dense.weight[target].detach().view(3, 4, 4)  # type: ignore[union-attr]
        return (weight * image).sum(0), 1, {"calls": 1}


def small_bench() -> measuring.Bench:
    torch.manual_seed(0)
    classifier = Classifier(Linear(), name="linear", mean=(0.0,) * 3, std=(1.0,) * 3, view=View(4, 4))
    images = torch.rand(3, 3, 4, 4)
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    masks[:, :2] = True
    return measuring.Bench(classifier, images, masks, torch.tensor([0, 1, 0]), torch.tensor([1, 0, 1]))


def test_numbers_of_a_method_that_is_known() -> None:
    on, method = small_bench(), Exact()
    method.__class__.name = "exact"  # not registered: the class was made without a name
    found = measuring.measure(method, on)
    assert found["images"] == 3 and found["calls"] == 1 and found["seconds"] > 0
    assert found["same_seed"] == found["other_seed"] == 1.0 and found["chance"] == 0.5
    assert 0.9 < found["noise"] < 1 and found["label"] < 0.9 and abs(found["weights"]) < 0.9
    maps = torch.stack([(on.classifier.network.dense.weight[t].view(3, 4, 4) * x).sum(0)  # type: ignore[union-attr]
                        for x, t in zip(on.images, on.targets.tolist(), strict=True)]).detach()  # fmt: skip
    positive = maps.clamp(min=0)
    assert found["mass"] == pytest.approx(float((positive[:, :2].sum((1, 2)) / positive.sum((1, 2))).mean()), rel=1e-5)
    best = maps.flatten(1).argmax(1)
    assert found["pointing"] == pytest.approx(float((best < 8).double().mean()))
    assert found["sum"]["logit less that of black"] < 1e-5 < found["sum"]["logit"]


def test_each_method_has_a_card_as_the_command_writes_it() -> None:
    assert sorted(MEASURED) == explainers.names(), "make cards"
    contract = Contract.read()
    for name, method in registered().items():
        written = (explainers.CARDS / f"{name}.md").read_text(encoding="utf-8")
        assert written == rendering.card(method, MEASURED[name], MEASURED["grad_cam"], contract), "make cards"
        assert sorted(path.stem for path in explainers.CARDS.glob("*.md")) == explainers.names()


def test_the_bench_is_what_the_cards_say() -> None:
    on = measuring.bench()
    assert len(on.images) == 6 == MEASURED["lrp"]["images"] and bool((on.targets != on.others).all())
    assert torch.equal(on.classifier(on.images).argmax(1), on.targets)
    assert MEASURED["grad_cam"]["chance"] == pytest.approx(float(on.masks.double().mean()))


@pytest.mark.parametrize("name", ["fem", "rap", "lrp"])
def test_what_was_measured_is_measured_again(name: str) -> None:
    found = measuring.measure(explainers.get(name), measuring.bench())
    for key in ("calls", "same_seed", "other_seed", "label", "weights", "mass", "rank", "sparseness"):
        assert found[key] == pytest.approx(MEASURED[name][key], abs=0.02, nan_ok=True), key


def test_failures_are_said_in_words() -> None:
    assert any("hardly depends on the class" in text for text in rendering.failures(MEASURED["fem"]))
    said = Contract.read().refusals("rap")
    assert any("negative inputs" in text and "mobilenet_v3_small" in text for text in said)
    assert all(f"| Measured | {text} |" in explainers.card("rap") for text in said)


def test_the_table_of_networks_in_words() -> None:
    rows = {"one": ("works", "works"), "two": ("blind", "works"), "three": ("blind", "nan")}
    states = {name: dict(zip(("lrp", "fem"), row, strict=True)) for name, row in rows.items()}
    reasons = {"blind": "what it cannot see", "nan": "NaN"}
    contract = Contract({name: f"{name} is odd" for name in states}, reasons, states)
    assert contract.methods == ["lrp", "fem"]
    assert contract.works_on("lrp").startswith("right on 1 of 3 ") and contract.works_on("fem").startswith("right on 2 of 3 ")
    assert contract.refusals("lrp") == ["refuses what it cannot see: two, three"]
    assert contract.refusals("fem") == ["refuses NaN: three"]
    text = contract.markdown()
    for line in ("| two | 1 | ✓ |", "| three | 1 | 2 |", "2. Refuses NaN.", "| one | one is odd |"):
        assert line in text.splitlines()
    assert "6 combinations: 3 give the right answer (50%)" in text


def test_a_card_is_shown_by_help_and_by_name() -> None:
    shown = pydoc.render_doc(type(explainers.get("grad_cam")), renderer=pydoc.plaintext)
    assert "Rank" in shown or "rank correlation" in shown
    assert explainers.card("grad_cam").startswith("# Grad-CAM") and "## Sensitivity" in shown
    with pytest.raises(UnknownExplainer, match="no card of 'gradcam'; nearest: grad_cam"):
        explainers.card("gradcam")
