"""Notebook 04 run for real at its smallest parameters, with the network of the install alone and no scans."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.notebooks.form import check_size, finished
from xai_lib.metrics.intervals import wilson

SMALLEST = {
    "photographs": "coffee", "per_class": "12,4,4", "head": "4,1", "localised": "1,1", "lime_samples": "10", "shap_samples": "4",
    "noisy": "1,0", "fitting": "1,1", "varied": "1", "architectures": "resnet18", "brain_sets": "mri-phantoms,brain-mri",
    "device": "cpu",
}  # fmt: skip
TABLE_1 = "data,network,split,subset,images,accuracy,ci_low,ci_high\n"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in a project of its own."""
    return finished(tmp_path_factory.mktemp("project"), "04_xai_framework", SMALLEST)


def handed(result: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((result / "run.json").read_text())["results"]
    return found


def table(result: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(result / "tables" / f"{name}.csv")


def test_every_figure_of_the_paper_is_shown(result: Path) -> None:
    assert {f"Figure {i}" for i in range(1, 15)} <= {entry["paper"] for entry in handed(result)["figures"]}


def test_scans_that_are_not_there_are_named(result: Path) -> None:
    reasons = {entry["item"]: entry["reason"] for entry in handed(result)["not_shown"]}
    said = reasons["brain pictures brain-mri"]
    assert "image(1).jpg is neither in" in said and "download=True" in said


def test_the_leak_is_counted_without_a_scan(result: Path) -> None:
    twins = table(result, "table-twins").set_index("class")
    assert twins.loc["all", ["training", "test", "test_with_twin", "distinct", "groups"]].tolist() == [2870, 394, 251, 2870, 300]
    assert twins.test_with_twin.drop("all").tolist() == [18, 106, 105, 22]


def test_table_1_has_its_columns_and_its_intervals(result: Path) -> None:
    assert (result / "tables" / "table-1.csv").read_text().startswith(TABLE_1)
    rows = table(result, "table-1")
    for row in rows.itertuples():
        _, low, high = wilson(round(row.accuracy * row.images), row.images)
        assert (row.ci_low, row.ci_high) == pytest.approx((low, high))
    tree = rows[(rows.network == "width and height alone") & (rows.split == "standard")].set_index("subset")
    assert tree.images.to_dict() == {"all": 394, "with twin": 251, "no twin": 143}
    assert 0.60 < tree.accuracy["all"] < 0.68 and tree.accuracy["no twin"] < 0.25
    assert rows[rows.data == "mri-phantoms"].images.tolist() == [16, 48]


def test_every_method_and_control_is_held_against_the_true_mask(result: Path) -> None:
    rows = table(result, "table-2")
    own = rows[rows.data == "mri-phantoms"].set_index("method")
    assert own.index.tolist() == [
        "Grad-CAM", "LRP", "SHAP", "IG", "LIME", "E-LIME", "ADVISE", "centred Gaussian", "edges", "random map",
    ]  # fmt: skip
    assert own[["pointing", "mass", "rank", "FC", "SP"]].notna().all(axis=None) and (own.chance == own.chance.iloc[0]).all()
    assert rows[rows.data == "photos"][["pointing", "mass", "rank"]].isna().all(axis=None)


def test_verdicts_follow_from_the_tables(result: Path) -> None:
    claims = pd.read_csv(result / "claims.csv", keep_default_na=False).set_index("name")
    assert claims.holds["scan-accuracy"] == "" and claims.holds["t11-trust"] == "" and claims.holds["t8-fitting"] == ""
    assert claims.holds["leak"] == "false" and "251 of 394" in claims.ours["leak"]
    ranks = table(result, "table-2").query("data == 'mri-phantoms'").set_index("method")["rank"]
    better = ranks["LRP"] > ranks[["centred Gaussian", "edges", "random map"]].max()
    assert claims.holds["t6-radiologists"] == str(bool(better)).lower()
    assert "our" in claims.ours["lrp-class"] and claims.holds["lrp-class"] == "false"


def test_figures_fit_a_page_and_the_run_is_small(result: Path) -> None:
    check_size(result)
