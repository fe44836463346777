"""Notebook 05 run for real at its smallest parameters, in the drawn world alone."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.notebooks.form import check_size, finished

SMALLEST = {
    "pool": "400", "noises": "2", "updates": "8", "sweep": "0.1,0.03,0.01", "sweep_runs": "1,5",
    "layer_runs": "1,5", "phases": "20", "judged": "2,1,4",
    "retraining": "2,24,3,160", "reading": "800,3,4", "device": "cpu",
}  # fmt: skip
TABLE_1 = "case,class_vector,noises,cosine_mean,cosine_best,share_correct,share_wrong,share_other,seconds_per_image\n"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in a project of its own."""
    return finished(tmp_path_factory.mktemp("project"), "05_counterfactuals", SMALLEST)


def handed(result: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((result / "run.json").read_text())["results"]
    return found


def table(result: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(result / "tables" / f"{name}.csv")


def test_every_figure_of_the_paper_is_shown_or_it_is_said_why_not(result: Path) -> None:
    shown = {entry["paper"] for entry in handed(result)["figures"]}
    not_shown = {entry["item"]: entry["reason"] for entry in handed(result)["not_shown"]}
    for item in ["Figure 1", "Figure 2", *(f"Figure {n}{c}" for n in "45" for c in "abc")]:
        assert item in shown or not_shown[item]
    assert {"Figure 1", "Figure 2"} <= shown


def test_table_1_has_its_columns_and_its_shares(result: Path) -> None:
    assert (result / "tables" / "table-1.csv").read_text().startswith(TABLE_1)
    rows = table(result, "table-1")
    assert len(rows) == 9 and (rows.noises == 2).all() and list(rows["class_vector"][:3]) == ["correct", "wrong", "softmax"]
    assert (rows.share_correct + rows.share_wrong + rows.share_other - 1).abs().max() < 1e-9
    assert (rows.cosine_best >= rows.cosine_mean).all() and (rows.cosine_best <= 1).all()


def test_the_reason_of_each_mistake_is_found_by_redrawing(result: Path) -> None:
    reasons = table(result, "table-reasons").set_index("part")
    assert list(reasons.columns) == ["a", "b", "c"] and (reasons.max() > 0).all()


def test_every_claim_has_its_numbers(result: Path) -> None:
    claims = {claim["name"]: claim for claim in handed(result)["claims"]}
    assert {
        "similar",
        "rmsprop",
        "both-kinds",
        "more-than-one-map",
        "transitions",
        "neck",
        "ears",
        "shoulder",
        "retraining",
        "seconds",
    } <= set(claims)
    assert claims["more-than-one-map"]["holds"] is None  # too few mistakes were judged


def test_the_layers_are_compared_and_the_last_features_tell_classes_apart_best(result: Path) -> None:
    rows = table(result, "table-layers").set_index("layer")
    assert list(rows.index) == ["features.26", "features.39", "avgpool"]
    apart = rows.same_class - rows.two_classes
    assert apart["avgpool"] > apart["features.39"] > apart["features.26"] > 0
    assert (rows.cases_with_both <= 3).all() and rows.searched.between(-1, 1).all()


def test_retraining_is_compared_over_seeds(result: Path) -> None:
    rows = table(result, "table-retraining").set_index("added")
    assert rows.seeds.to_dict() == {"nothing, not retrained": 1, "counterfactuals": 2, "generated": 2, "drawings": 2}


def test_it_stays_small(result: Path) -> None:
    check_size(result)
