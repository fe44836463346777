"""Notebook 02 run for real at its smallest parameters, killed once on the way, with the network of the install alone."""

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.notebooks.form import check_size, command
from tests.runs import slurm
from xai_lib import classifiers, images
from xai_lib.explainers import advise
from xai_lib.runs import comparison
from xai_lib.runs.project import Project

SMALLEST = {
    "photographs": "coffee,chelsea", "costly": "1", "lime_samples": "20", "defined": "1", "noise": "0.1", "noisy": "1",
    "checked": "1", "randomised": "1", "random_steps": "2", "device": "cpu", "other_networks": "mobilenetv1_075",
}  # fmt: skip
TABLE_1 = (
    "network,method,images,peak_range,AD,AD_sd,SSIM,SSIM_sd,FSIM,FSIM_sd,MSE,MSE_sd,AVX,AVX_sd,seconds_authors,"
    "seconds_end_to_end,published_AVX\n"
)
METHODS = [
    "advise", "advise_paper", "grad_cam", "grad_cam_pp", "score_cam", "layer_cam", "lime", "fem", "constant", "gaussian",
    "random",
]  # fmt: skip
VALUES = ["AD", "SSIM", "FSIM", "MSE", "AVX"]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose run was killed after some units, which are copied beside it."""
    root = tmp_path_factory.mktemp("project")
    running = subprocess.Popen(**command(root, "02_advise", SMALLEST))
    units, deadline = root / "papermill_runs" / "default" / ".units" / "02_advise", time.monotonic() + 200
    while len(list(units.glob("*.json"))) < 12:
        assert running.poll() is None and time.monotonic() < deadline, running.communicate()[0]
        time.sleep(0.1)
    running.kill()
    running.communicate()
    shutil.copytree(units, root / "kept")
    return root


@pytest.fixture(scope="module")
def result(killed: Path) -> Path:
    """The same project after the same command once more."""
    ended = subprocess.run(**command(killed, "02_advise", SMALLEST), timeout=300)
    assert ended.returncode == 0, ended.stdout
    return killed / "papermill_runs" / "default" / "02_advise"


@pytest.fixture(scope="module")
def handed(result: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((result / "run.json").read_text())["results"]
    return found


def table(result: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(result / "tables" / f"{name}.csv")


def harmonic(rows: pd.DataFrame) -> "pd.Series[float]":
    terms = pd.concat([1 - rows.AD, rows.SSIM, rows.FSIM, 1 - rows.MSE], axis=1)
    return (4 / (1 / terms).sum(axis=1)).where((terms > 0).all(axis=1), 0.0)


def test_a_killed_run_goes_on_with_what_it_had_measured(killed: Path, result: Path) -> None:
    kept = [json.loads(path.read_text()) for path in (killed / "kept").glob("*.json")]
    measured = [unit for unit in kept if isinstance(unit, dict) and "judged" in unit]
    rows = table(result, "table-images")
    assert len(measured) >= 3
    for unit in measured:  # times differ from one measurement to the next: found again to the last digit, they were kept
        wall = {column: unit[column][0] for column in ("seconds_end_to_end", "seconds_authors")}
        same = rows[(rows[list(wall)] == pd.Series(wall)).all(axis=1)]
        assert any(any(s["avx"] == avx for s in unit["judged"]["code, binary"]) for avx in same.AVX)
    assert not (result.parent / ".units" / "02_advise").exists()


def test_two_shards_on_a_cluster_give_the_same(result: Path, tmp_path: Path) -> None:
    with slurm.cluster(tmp_path / "slurm"):
        threads = json.loads((result / "run.json").read_text())["hardware"]["threads"]  # as many as it had here
        slurm.small_profile(tmp_path / "papermill_runs", threads=threads)
        ended = subprocess.run(**command(tmp_path, "02_advise", SMALLEST, "--executor", "slurm", "--shards", "2"), timeout=400)
        log = tmp_path / "papermill_runs" / ".state" / "default" / "snakemake.log"
        assert ended.returncode == 0, ended.stdout + log.read_text()
    there = tmp_path / "papermill_runs" / "default" / "02_advise"
    by_shards, whole = (json.loads((folder / "run.json").read_text()) for folder in (there, result))
    assert sum(by_shards["units"].values()) == sum(whole["units"].values())
    assert by_shards["units"]["measured"] <= 5  # what is not worth a shard: gradients, the time of a forward pass
    assert by_shards["hardware"]["threads"] == whole["hardware"]["threads"]
    shutil.copytree(result, tmp_path / "papermill_runs" / "reference" / "default" / "02_advise")
    compared = comparison.compare(Project(tmp_path), "default", "02_advise")
    assert compared and compared.moved == [] and compared.held > 800


def test_every_item_of_the_paper_is_shown_or_named_as_missing(result: Path, handed: dict[str, Any]) -> None:
    shown = {entry["paper"] for entry in handed["figures"] + handed["tables"]}
    assert {"Figure 1", "Figure 2", "Figure 3", "Figure 4", "Figure 5", "Table I"} <= shown
    missing = {entry["item"] for entry in handed["not_shown"]}
    assert {"Figure 1 (g-l)", "Figure 5: Score-CAM, LIME"} <= missing
    cells = json.loads((result / "02_advise.ipynb").read_text())["cells"]
    words = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert "**Algorithm 1" in words and all(f"\\tag{{{i}}}" in words for i in range(1, 16))


def test_networks_without_weights_are_named_and_declared_as_inputs(handed: dict[str, Any]) -> None:
    reasons = {entry["item"]: entry["reason"] for entry in handed["not_shown"]}
    assert "weights file mobilenetv1_075-keras.pth not found" in reasons["network mobilenetv1_075"]
    inputs = {entry["path"]: entry["sha256"] for entry in handed["inputs"]}
    assert inputs["$XAI_WEIGHTS_HOME/mobilenetv1_075-keras.pth"] is None
    assert any(path.endswith("data/published/advise_table1.csv") and sha for path, sha in inputs.items())


def test_table_1_has_its_columns_and_a_row_a_method(result: Path) -> None:
    assert (result / "tables" / "table-1.csv").read_text().startswith(TABLE_1)
    one = table(result, "table-1").set_index("method")
    assert one.index.tolist() == METHODS and set(one.network) == {"efficientnet_lite0"}
    assert one.images.to_dict() == {m: 1 if m in ("score_cam", "lime") else 2 for m in METHODS}
    assert one.peak_range.notna().tolist() == [m.startswith("advise") for m in METHODS]
    assert one.published_AVX.isna().all()  # the paper has no such network
    assert one.loc["constant", VALUES].tolist() == pytest.approx([0, 1, 1, 0, 1], abs=1e-4)
    assert one.loc["gaussian", "AVX"] < 1


def test_tables_agree_with_each_other(result: Path) -> None:
    rows = table(result, "table-images")
    np.testing.assert_allclose(harmonic(rows), rows.AVX, atol=1e-6)
    one = table(result, "table-1").set_index("method")
    means = rows.groupby("method")[VALUES].agg(["mean", "std"]).loc[METHODS]
    for name in VALUES:
        np.testing.assert_allclose(one[name], means[name]["mean"])
        np.testing.assert_allclose(one[f"{name}_sd"], means[name]["std"])
    defined = table(result, "table-definitions")
    assert set(defined.definition) == {"code, binary", "code, soft", "paper, binary", "paper, soft"}
    by_code = defined[defined.definition == "code, binary"].set_index("method")
    coffee = rows[rows.photograph == "coffee"].set_index("method")
    np.testing.assert_allclose(by_code.AVX, coffee.AVX[by_code.index])
    cost = table(result, "table-cost")
    np.testing.assert_allclose(cost.forwards_of_8_end_to_end * cost.forward_of_8_seconds, cost.seconds_end_to_end)
    assert (cost.set_index("method").seconds_end_to_end["advise"] > cost.set_index("method").seconds_authors["advise"]).all()


def test_numbers_are_those_of_the_package(result: Path) -> None:
    classifier = classifiers.load("efficientnet_lite0")
    image = images.load("photos").select(["coffee"]).batch(classifier.view)[0]
    found = advise.groups(classifier, image)
    place, scores = advise.best(classifier, image, found)
    row = table(result, "table-images").query("photograph == 'coffee' and method == 'advise'").iloc[0]
    assert row.peaks == found.peaks[place]
    np.testing.assert_allclose(row.AVX, scores[place].avx, atol=1e-4)
    dropped = table(result, "table-dropped").set_index("share").efficientnet_lite0
    assert 0.001 < float(dropped["above_1_of_all"]) < 0.2 and float(dropped["below_0_of_all"]) == 0
    scores = table(result, "table-scores").set_index("margin").cosine_of_the_maps
    assert scores[[5, 10]].min() > 0.999 and scores[[20, 40, 120]].max() < 0.9  # float32: p is 1
    gradients = table(result, "gradients").set_index("layer")
    assert gradients.units_constant_over_space.iloc[0] == gradients.units.iloc[0] == 1280
    assert gradients.units_constant_over_space.iloc[1] < 0.2 * gradients.units.iloc[1]


def test_claims_have_verdicts_that_follow_from_the_tables(result: Path) -> None:
    claims = pd.read_csv(result / "claims.csv", keep_default_na=False).set_index("name").holds
    sensitivity = table(result, "table-sensitivity").query("density > 0").set_index("method").share_AVX_zero
    assert claims["sensitivity"] == str(bool(sensitivity["advise"] == 0 and sensitivity.drop("advise").any())).lower()
    twins = table(result, "table-invariance").set_index("twin")
    for kind in ("folded", "doubled"):
        same = twins.units_with_equal_peaks[kind] > 0.999 and twins.largest_difference_of_map[kind] < 0.01
        assert claims[f"implementation-invariance-{kind}"] == str(bool(same)).lower()
    assert twins.largest_difference_of_probability["doubled"] == 0
    cost = table(result, "table-cost").set_index("method")
    rivals = ["grad_cam", "grad_cam_pp", "score_cam", "layer_cam", "lime"]
    for column in ("authors", "end_to_end"):  # by the clock that does not run while other programs do
        seconds = cost[f"processor_seconds_{column}"]
        ratio = seconds["advise"] / seconds[rivals].median()
        assert claims[f"competitive-time-{column.replace('_', '-')}"] == str(bool(ratio <= 2)).lower()
    assert claims["avx-measures-quality"] == "false" and claims["no-retraining"] == "true"
    assert [claims[name] for name in ("which-layers-to-freeze", "deep-maps-centred", "accurate-explained-worse")] == [""] * 3
    assert {"better-metric-picks", "better-picked-elsewhere", "sanity-check", "single-units"} <= set(claims.index)


def test_anomalies_of_the_published_table_are_computed(result: Path, handed: dict[str, Any]) -> None:
    odd = table(result, "table-anomalies").set_index(["anomaly", "quantity"])
    networks = ["AlexNet", "VGG16", "ResNet50", "Xception"]
    assert set(odd.index.get_level_values(0)) == set("abcdefghij")
    assert odd.loc[("a", "entries of 5 in which LIME equals Grad-CAM"), networks].sum() == 20
    assert odd.loc[("b", "rows of 6 with AVX below what they allow"), networks].sum() == 10
    assert odd.loc[("c", "ADVISE: ms a unit on CPU"), networks].round(1).tolist() == [1065.2, 108.0, 18.7, 56.0]
    [caption] = [figure["caption"] for figure in handed["figures"] if figure["name"] == "anomaly-avx"]
    assert "10 rows lie below" in caption and "ADVISE 4 of 4, Grad-CAM 3 of 4, LIME 3 of 4" in caption


def test_the_verdict_comes_before_the_figures(result: Path) -> None:
    cells = json.loads((result / "02_advise.ipynb").read_text())["cells"]
    said = ["".join("".join(o.get("data", {}).get("text/markdown", "")) for o in c.get("outputs", [])) for c in cells]
    verdict = [i for i, text in enumerate(said) if "where the metric picks its group" in text]
    first_figure = next(i for i, text in enumerate(said) if text.startswith("**Figure 1"))
    assert verdict[0] < first_figure and len(verdict) == 2


def test_figures_fit_a_page_and_the_run_is_small(result: Path) -> None:
    check_size(result)
