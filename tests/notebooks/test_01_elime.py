"""Notebook 01 run for real at its smallest parameters, through the command, with the network of the install alone."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from tests.notebooks.form import check_size, command
from xai_lib import classifiers, images
from xai_lib.superpixels import Fitness, segment

SMALLEST = {
    "photographs": "coffee", "runs": "2", "calls": "24", "lime_samples": "20", "runs_without_full": "1",
    "control_runs": "1", "long_runs": "1", "long_calls": "32", "device": "cpu",
    "other_networks": "efficientnet_lite1,mobilenetv1_075",
}  # fmt: skip
TABLE_2 = (
    "image,network,target,runs,p_full,p_elime_mean,p_elime_sd,p_elime_best,kept_fraction,p_lime5,p_lime10,p_random,"
    "p_second_network\n"
)
TABLE_3 = "image,network,method,calls,seconds,calls_to_match_lime,seconds_to_match_lime\n"


def xai(root: Path, **parameters: str) -> "subprocess.CompletedProcess[str]":
    """`xai run 01_elime`, its two streams apart."""
    return subprocess.run(**command(root, "01_elime", parameters) | {"stderr": subprocess.PIPE}, timeout=300)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    ended = xai(root, **SMALLEST)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return root / "papermill_runs" / "default" / "01_elime"


@pytest.fixture(scope="module")
def handed(result: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((result / "run.json").read_text())["results"]
    return found


def table(result: Path, name: str) -> pd.DataFrame:
    """A table's rows, those of the network that is measured in full."""
    frame = pd.read_csv(result / "tables" / f"{name}.csv")
    return frame[frame.network == "efficientnet_lite0"].reset_index(drop=True) if "network" in frame else frame


def test_every_item_of_the_paper_is_shown_or_named_as_missing(handed: dict[str, Any]) -> None:
    shown = " ".join(entry["paper"] for entry in handed["figures"] + handed["tables"])
    missing = {entry["item"] for entry in handed["not_shown"]}
    for number in range(1, 18):
        known = f"Figure {number}" in shown or f"Figure {number}" in missing or number in (12, 13, 14)
        assert known, f"Figure {number}"
    assert "Figures 12-14" in shown
    assert all(f"Table {number}" in shown for number in (1, 2, 3))


def test_networks_without_weights_are_named_and_declared_as_inputs(handed: dict[str, Any]) -> None:
    reasons = {entry["item"]: entry["reason"] for entry in handed["not_shown"]}
    assert "weights file mobilenetv1_075-keras.pth not found" in reasons["network mobilenetv1_075"]
    inputs = {entry["path"]: entry["sha256"] for entry in handed["inputs"]}
    assert inputs["$XAI_WEIGHTS_HOME/mobilenetv1_075-keras.pth"] is None
    assert any(path.startswith("$SITE_PACKAGES/efficientnet_lite0") and sha for path, sha in inputs.items())


def test_tables_have_their_columns_and_rows(result: Path) -> None:
    for name, header in (("table-2", TABLE_2), ("table-3", TABLE_3)):
        assert (result / "tables" / f"{name}.csv").read_text().startswith(header)
    assert table(result, "table-3").method.tolist() == [
        "elime", "elime_paper", "random_search", "greedy_deletion", "greedy_insertion", "lime", "lime_stratified",
    ]  # fmt: skip


def test_probabilities_are_those_of_the_network(result: Path) -> None:
    [row] = table(result, "table-2").to_dict("records")
    classifier = classifiers.load("efficientnet_lite0")
    image = images.load("photos").select(["coffee"]).batch(classifier.view)[0]
    target, name, p_full = classifier.top(image[None], 1)[0][0]
    empty = Fitness(classifier, image, segments := segment(image), target, calls=0)
    [p_empty] = empty.probabilities(pd.array([False] * (int(segments.max()) + 1)).to_numpy(bool)[None])
    assert (row["target"], row["runs"]) == (name, 2)
    assert row["p_full"] == pytest.approx(p_full, abs=1e-5)
    assert table(result, "table-controls").p_empty[0] == pytest.approx(p_empty, abs=1e-5)


def test_the_second_network_sees_the_same_pixels_at_its_own_size(result: Path) -> None:
    [row] = table(result, "table-controls").to_dict("records")
    one, two = classifiers.load("efficientnet_lite0"), classifiers.load("efficientnet_lite1")
    image = images.load("photos").select(["coffee"]).batch(one.view)
    resized = torch.nn.functional.interpolate(image, size=240, mode="bilinear", antialias=True)
    target = one.top(image, 1)[0][0].index
    assert row["second"] == "efficientnet_lite1"
    assert row["p2_full"] == pytest.approx(float(two.probabilities(resized)[0, target]), abs=1e-5)
    assert 0 < row["p2_elime"] < 1 and 0 < row["p2_random"] < 1


def test_tables_agree_with_each_other(result: Path) -> None:
    [two] = table(result, "table-2").to_dict("records")
    rivals = table(result, "table-rivals").set_index("method")
    raised = table(result, "table-raised").set_index("series")
    three = table(result, "table-3").set_index("method")
    assert two["p_elime_mean"] == pytest.approx(rivals.p_mean["elime"]) == pytest.approx(raised.p_mean["elime"])
    assert two["p_full"] <= two["p_elime_mean"] <= two["p_elime_best"] == pytest.approx(rivals.p_max["elime"])
    assert max(two["p_lime5"], two["p_lime10"]) <= rivals.p_max["lime"]
    assert 0 < two["kept_fraction"] <= 1
    assert (three.calls.drop("lime") <= 24).all() and three.calls["lime"] == 20
    searches = three.drop(["lime", "lime_stratified"])
    assert (searches.calls_to_match_lime.dropna() <= 24).all()
    assert (searches.seconds_to_match_lime.dropna() <= searches.seconds[searches.seconds_to_match_lime.notna()]).all()
    never = rivals.p_max[searches.index] < rivals.p_max["lime"]
    assert searches.calls_to_match_lime[never[never].index].isna().all()


def test_claims_have_verdicts_that_follow_from_the_tables(result: Path) -> None:
    claims = pd.read_csv(result / "claims.csv", keep_default_na=False).set_index("name")
    raised = table(result, "table-raised").set_index("series")
    for series in ("elime", "elime_without_full", "elime_paper"):
        claim = claims.loc[f"probability-raised-{series.replace('_', '-')}"]
        assert claim.holds == str(bool(raised.p_mean[series] > raised.p_full[series])).lower()
        assert claim.label == "replicated"
    assert claims.holds["meaningful-features"] == "" and claims.label["meaningful-features"] == ""
    two = pd.read_csv(result / "tables" / "table-2.csv")
    raised_on = (two.p_elime_mean > two.p_full).groupby(two.network).any()
    assert len(raised_on) == 2 and claims.holds["model-agnostic"] == str(bool(raised_on.all())).lower()
    for name in ("ten-times-faster-elime", "ten-times-faster-elime-paper"):  # by calls; one photograph decides nothing
        assert claims.holds[name] == "" and "times in calls" in claims.ours[name] and "not judged" in claims.ours[name]
    assert "processor seconds" in claims.ours["within-a-minute"] and claims.holds["within-a-minute"] == "true"
    assert {"within-a-minute", "ten-times-faster-elime", "number-of-superpixels"} <= set(claims.index)


def test_the_verdict_on_luck_and_greed_comes_before_the_figures(result: Path) -> None:
    cells = json.loads((result / "01_elime.ipynb").read_text())["cells"]
    said = ["".join("".join(o.get("data", {}).get("text/markdown", "")) for o in c.get("outputs", [])) for c in cells]
    verdict = [i for i, text in enumerate(said) if "At 24 calls" in text]
    first_figure = next(i for i, text in enumerate(said) if text.startswith("**Figure 1"))
    assert verdict[0] < first_figure and len(verdict) == 3


def test_figures_fit_a_page_and_the_run_is_small(result: Path) -> None:
    check_size(result)


def test_without_any_weights_the_error_names_the_file(tmp_path: Path) -> None:
    ended = xai(tmp_path, **SMALLEST | {"networks": "squeezenet1_1", "other_networks": "squeezenet1_1"})
    assert ended.returncode == 1
    assert "squeezenet1_1: weights file squeezenet1_1-" in ended.stderr
    assert "looked in: $XAI_WEIGHTS_HOME" in ended.stderr
