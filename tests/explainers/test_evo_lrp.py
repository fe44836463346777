"""The search of EVO-LRP: what candidates cost, equal budgets, the same numbers after a kill, settings as a file."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.networks import picture, tiny
from xai_lib import explainers, strategies
from xai_lib.classifiers import Classifier
from xai_lib.explainers import evo_lrp, lrp
from xai_lib.explainers.evo_lrp import Evaluation, Objective, search
from xai_lib.explanation import ExplanationError
from xai_lib.metrics import faithfulness
from xai_lib.relevance import Recording
from xai_lib.strategies import TuningError

PICTURES = torch.stack([picture(s) for s in range(2)])
TARGETS = torch.tensor([1, 3])


def small(family: evo_lrp.Family = "alpha_beta", **changes: object) -> Evaluation:
    given: dict[str, object] = {"runs": 20, "subset": 100, "samples": 2, "seed": 5} | changes
    return Evaluation(tiny(), PICTURES, TARGETS, family, **given)  # type: ignore[arg-type]


def one_by_one(classifier: Classifier, x: Tensor, target: int, family: evo_lrp.Family, values: np.ndarray) -> Tensor:
    """The map of one candidate by the public function alone, channels summed."""
    box = lrp.bounds(classifier)
    rule = (
        lrp.alpha_beta(values.tolist(), zbox=box, groups="resolution") if family == "alpha_beta"
        else lrp.epsilon(values.tolist(), relative=True, zbox=box, groups="resolution")
    )  # fmt: skip
    return lrp.relevance(classifier.network, x, target, rule)[0].sum(0)


def test_another_rule_meets_the_same_perturbations() -> None:
    first, fresh = small("alpha_beta"), small("epsilon", groups="all")
    values = np.array([[0.1], [2.0]])
    first.scores(np.full((1, first.size), 1.5))
    twin = first.of_rule("epsilon", "all")
    assert twin.drops is first.drops and twin.fingerprint() == fresh.fingerprint() != first.fingerprint()
    for name, wanted in fresh.scores(values).items():
        np.testing.assert_array_equal(twin.scores(values)[name], wanted)
    assert first.family == "alpha_beta" and first.size == small().size
    with pytest.raises(TuningError, match="family: expected alpha_beta or epsilon, found 'gamma'"):
        first.of_rule("gamma")  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["alpha_beta", "epsilon"])
def test_a_search_begins_at_the_untuned_rule(family: evo_lrp.Family) -> None:
    found = search(small(family), Objective.of("SP"), generations=1, population=8, sigma=1e-6, seed=1)
    tried = evo_lrp.parameter(family, found.history.filter(regex=r"^u\d+$").to_numpy())
    np.testing.assert_allclose(tried, evo_lrp.UNTUNED[family], rtol=1e-3)


@pytest.mark.parametrize("family", ["alpha_beta", "epsilon"])
def test_scores_of_a_population_are_those_of_its_candidates_one_by_one(family: evo_lrp.Family) -> None:
    evaluation, classifier = small(family), tiny()
    values = evo_lrp.parameter(family, np.random.default_rng(0).random((4, evaluation.size)))
    found = evaluation.scores(values)
    for i, target in enumerate(TARGETS.tolist()):
        places, drops = evaluation.indices[i], evaluation.drops[i]
        for p, each in enumerate(values):
            clean = one_by_one(classifier, evaluation.noisy(i, 0), target, family, each)
            replaced = torch.stack([clean.flatten()[s % clean.numel()].sum() for s in places])
            fc = np.corrcoef(replaced.double(), drops.double())[0, 1]
            moved = [one_by_one(classifier, evaluation.noisy(i, k), target, family, each) for k in (1, 2)]
            sensitivity = np.mean([float((clean - m).norm() / clean.norm()) for m in moved])
            assert found["FC"][p, i] == pytest.approx(fc, abs=1e-4)
            assert found["SP"][p, i] == pytest.approx(float(faithfulness.sparseness(clean)), abs=1e-4)
            assert found["AS"][p, i] == pytest.approx(sensitivity, rel=1e-3)


def test_recorded_passes_beyond_the_memory_change_nothing() -> None:
    values = np.full((3, small().size), 2.0)
    kept, made_anew = small(), small(memory=0.0)
    for evaluation in (kept, made_anew):
        evaluation.scores(values)
    assert len(kept._kept) == 2 * 3 and not made_anew._kept
    for metric, scores in kept.scores(values).items():
        np.testing.assert_array_equal(scores, made_anew.scores(values)[metric])


def test_perturbations_are_those_of_the_image_not_of_its_place() -> None:
    turned = Evaluation(tiny(), PICTURES.flip(0), TARGETS.flip(0), runs=20, subset=100, samples=2, seed=5)
    for metric, scores in small().scores(np.full((1, 3), 1.5)).items():
        np.testing.assert_allclose(scores, turned.scores(np.full((1, 3), 1.5))[metric][:, ::-1], rtol=1e-6)


@pytest.mark.parametrize("family", ["alpha_beta", "epsilon"])
def test_coordinates_and_parameters_are_inverse_and_within_the_rules(family: evo_lrp.Family) -> None:
    u = np.linspace(0, 1, 11)
    values = evo_lrp.parameter(family, u)
    assert [evo_lrp.coordinate(family, v) for v in values] == pytest.approx(u)
    assert values.min() >= (1 if family == "alpha_beta" else 1e-4) and values.max() <= (5 if family == "alpha_beta" else 10)
    assert evo_lrp.parameter("alpha_beta", np.array(0.25)) == 2  # the search begins at the untuned rule


def test_objectives_have_the_right_sign_and_scale() -> None:
    means = {"FC": np.array([0.2, 0.4]), "SP": np.array([0.5, 0.9]), "AS": np.array([0.3, 0.6])}
    assert Objective.of("FC").costs(means).tolist() == [-0.2, -0.4]
    assert Objective.of("AS").costs(means).tolist() == [0.3, 0.6]
    untuned = {"FC": np.array([[0.1, 0.3]]), "AS": np.array([[0.4, 0.8]])}  # means 0.2 and 0.6, deviations 0.1 and 0.2
    both = Objective.of("0.25*FC+0.75*AS", untuned)
    assert both.costs(means) == pytest.approx([-0.25 * 0 + 0.75 * -1.5, -0.25 * 2 + 0.75 * 0])
    assert Objective.of("1*FC+0*AS", untuned).metrics == ("FC",)
    assert Objective.of("FC").costs({"FC": np.array([np.nan, 0.1])}).tolist() == [evo_lrp.FAILED, -0.1]
    for wrong, words in (("XY", "expected FC, SP, AS"), ("FC+SP", "need the untuned rule's scores")):
        with pytest.raises(TuningError, match=words):
            Objective.of(wrong)


@pytest.mark.parametrize("strategy", ["cma", "random", "grid"])
def test_every_strategy_spends_the_same_and_finds_what_its_history_says(strategy: evo_lrp.Strategy) -> None:
    evaluation = small()
    found = search(evaluation, Objective.of("SP"), strategy, generations=4, population=6, progress=False)
    assert len(found.history) == 24 and found.failed == 0
    assert found.history.groupby("generation").size().tolist() == [6] * 4
    u = found.history.filter(regex=r"^u\d$").to_numpy()
    assert (u >= 0).all() and (u <= 1).all()
    assert found.cost == found.history.cost.min()
    again = evaluation.scores(np.array([found.values]), ("SP",))["SP"].mean()
    assert -found.cost == pytest.approx(again, abs=1e-6)
    if strategy != "cma":
        other = found.choose(Objective.of("AS"))
        assert other.cost == found.history.AS.min() and other.objective == "AS"


def test_evolution_finds_a_planted_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a smooth cost CMA-ES comes nearer to the optimum than as many random points."""
    evaluation, wanted = small(), np.array([0.8, 0.1, 0.6])

    def planted(self: Evaluation, values: np.ndarray, metrics: tuple[str, ...] = evo_lrp.METRICS) -> dict[str, np.ndarray]:
        distance = ((values - 1) / 4 - wanted) ** 2
        return {m: -distance.sum(1, keepdims=True) for m in metrics}

    monkeypatch.setattr(Evaluation, "scores", planted)
    costs = {s: search(evaluation, Objective.of("FC"), s, generations=20, progress=False).cost for s in ("cma", "random", "grid")}
    assert costs["cma"] < 1e-3 < min(costs["random"], costs["grid"])


def test_seeds_differ_and_repeat_and_leave_the_global_generator_alone() -> None:
    np.random.seed(3)
    before = np.random.get_state()[1].tolist()
    evaluation = small()
    one, again, two = (search(evaluation, Objective.of("SP"), generations=3, seed=s, progress=False) for s in (1, 1, 2))
    assert np.random.get_state()[1].tolist() == before
    assert one.history.equals(again.history) and not one.history.equals(two.history)


def test_one_parameter_for_all_layers() -> None:
    found = search(small(groups="all"), Objective.of("SP"), generations=2, progress=False)
    assert len(found.values) == 1 and "u1" not in found.history


def test_the_lattice_fills_the_budget() -> None:
    points = strategies.lattice(3, 30)
    assert points.shape == (30, 3) and len(np.unique(points[:27], axis=0)) == 27
    assert (points[27:] == points[27:, :1]).all() and points.min() >= 0 and points.max() <= 1
    assert strategies.lattice(6, 12).shape == (12, 6)


SEARCH = """
import sys, time, numpy as np, torch
from pathlib import Path
from typing import Any
from tests.explainers.test_evo_lrp import small
from xai_lib import strategies
from xai_lib.explainers import evo_lrp
if sys.argv[2] == "slow":  # so that there is time to kill it between two generations
    told = strategies.Cma.tell
    strategies.Cma.tell = lambda self, costs: (time.sleep(0.3), told(self, costs))[1]
torch.set_num_threads(1)
found = evo_lrp.search(small(), evo_lrp.Objective.of("FC"), generations=8, seed=2, checkpoint=sys.argv[1] or None)
print(found.history.to_json(double_precision=15), found.values)
"""


def run(checkpoint: Path | str, pace: str = "fast") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SEARCH, str(checkpoint), pace]
    root = Path(__file__).resolve().parents[2]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=root, env=os.environ | {"PYTHONPATH": "."}, **pipes)


def test_a_killed_search_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    checkpoint = tmp_path / "state" / "search.pkl"
    whole = run("")
    killed = run(checkpoint, "slow")
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.7)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL and checkpoint.exists()
    done = len(strategies.read(checkpoint, pickle.loads(checkpoint.read_bytes()).key).rows)  # type: ignore[union-attr]
    assert 1 <= done < 8
    resumed = run(checkpoint)
    (expected, _), (found, said) = whole.communicate(), resumed.communicate()
    assert found == expected and json.loads(found.split("} (")[0] + "}")
    assert f"{done}/8" in said or "best" in said  # the progress bar goes on where it was


def test_checkpoints_of_another_search_or_damaged_are_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "search.pkl"
    search(small(), Objective.of("SP"), generations=1, checkpoint=checkpoint, progress=False)
    with pytest.raises(TuningError, match="search.pkl belongs to another search .* remove it"):
        search(small(), Objective.of("SP"), generations=1, seed=2, checkpoint=checkpoint, progress=False)
    with pytest.raises(TuningError, match="belongs to another search"):
        search(small("epsilon"), Objective.of("SP"), generations=1, checkpoint=checkpoint, progress=False)
    checkpoint.write_bytes(checkpoint.read_bytes()[:50])
    with pytest.raises(TuningError, match="search.pkl cannot be read .* remove it to begin anew"):
        search(small(), Objective.of("SP"), generations=1, checkpoint=checkpoint, progress=False)


def test_the_progress_bar_shows_the_best_so_far(capfd: pytest.CaptureFixture[str]) -> None:
    found = search(small(), Objective.of("SP"), generations=2)
    assert f"best {found.cost:.4f}" in capfd.readouterr().err


def test_tuned_settings_are_a_file_that_explain_takes(tmp_path: Path) -> None:
    found = search(small(), Objective.of("FC"), generations=2, progress=False)
    file = tmp_path / "tuned.json"
    file.write_text(found.settings.to_json())
    settings = evo_lrp.Settings.from_json(file)
    assert settings == found.settings and settings.values == found.values
    explanation = explainers.get("evo_lrp").explain(tiny(), PICTURES, TARGETS, settings)
    for i, target in enumerate(TARGETS.tolist()):
        by_hand = one_by_one(tiny(), tiny().normalise(PICTURES[i : i + 1]), target, "alpha_beta", np.array(found.values))
        torch.testing.assert_close(explanation.maps[i], by_hand, rtol=1e-4, atol=1e-6)
    assert explanation.network_calls == 4 and not explanation.details[0]["tuned_here"]


def test_parameters_of_another_network_are_refused() -> None:
    settings = evo_lrp.Settings(values=(1.5, 2.0, 2.5, 3.0))
    with pytest.raises(lrp.RelevanceError, match=r"Sequential has 3 groups of layers .* found parameters"):
        explainers.get("evo_lrp").explain(tiny(), PICTURES, TARGETS, settings)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"rule": "gamma"}, "rule"), ({"groups": "block"}, "groups"), ({"population": 1}, "population"),
     ({"objective": "FC+SP"}, "on one image for one of FC, SP, AS")],
)  # fmt: skip
def test_settings_that_cannot_be(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ExplanationError, match=words):
        evo_lrp.Settings(**changes)  # type: ignore[arg-type]


def test_wrong_searches_are_refused() -> None:
    with pytest.raises(TuningError, match="seed >= 1"):
        search(small(), Objective.of("FC"), seed=0)
    with pytest.raises(TuningError, match=r"targets: expected \(2,\)"):
        Evaluation(tiny(), PICTURES, torch.tensor([1]))
    with pytest.raises(TuningError, match="family"):
        small("gamma")  # type: ignore[arg-type]


def test_clamped_maps_and_their_composite() -> None:
    maps = torch.randn(3, 20, 20, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 1e3, 1e-3])[:, None, None]
    cut = evo_lrp.clamped(maps)
    assert cut.abs().amax((1, 2)).tolist() == pytest.approx([1, 1, 1])
    low, high = np.percentile(maps[0].numpy(), [1, 99])
    np.testing.assert_allclose(cut[0], np.clip(maps[0].numpy(), low, high) / max(-low, high), rtol=1e-5)
    torch.testing.assert_close(evo_lrp.composite_map(maps), cut.mean(0))
    assert torch.equal(evo_lrp.clamped(torch.zeros(4, 4)), torch.zeros(4, 4))


def test_recordings_share_weights_and_die_with_their_evaluation() -> None:
    evaluation = small()
    evaluation.scores(np.full((2, 3), 2.0))
    recordings = [*evaluation._kept.values()]
    assert all(isinstance(r, Recording) and r.layers is recordings[0].layers for r in recordings)
