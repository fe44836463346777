"""Notebook 03 run for real at its smallest parameters, with the network of the install alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.notebooks.form import check_size, finished

SMALLEST = {
    "photographs": "coffee", "held_out": "chelsea", "generations": "1", "population": "4", "perturbations": "10,100",
    "noisy": "1,1,1,1", "lime_samples": "20", "class_pairs": "1", "pairs": "FC+SP", "device": "cpu",
    "other_networks": "mobilenetv1_075",
}  # fmt: skip
TABLE_1 = "network,method,objective,seed,split,images,FC,FC_sd,SP,SP_sd,AS,AS_sd\n"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in a project of its own, without any weights but those of the install."""
    return finished(tmp_path_factory.mktemp("project"), "03_evo_lrp", SMALLEST)


def table(result: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(result / "tables" / f"{name}.csv", keep_default_na=True)


def test_every_item_of_the_paper_is_shown_or_named_as_missing(result: Path) -> None:
    handed: dict[str, Any] = json.loads((result / "run.json").read_text())["results"]
    shown = {entry["paper"] for entry in handed["figures"]}
    assert {*(f"Figure {i}" for i in range(1, 6)), "Figure 2, counterpart for ε"} <= shown
    missing = {entry["item"] for entry in handed["not_shown"]}
    assert {"Figure 6", "Tables 1 to 3 of the paper", "network mobilenetv1_075"} <= missing


def test_table_1_has_its_columns_and_every_rival(result: Path) -> None:
    assert (result / "tables" / "table-1.csv").read_text().startswith(TABLE_1)
    one = table(result, "table-1")
    assert set(one.split) == {"tune", "held-out"} and set(one.images) == {1}
    rivals = {"untuned alpha-beta", "untuned epsilon", "LRP-0", "Grad-CAM", "LIME", "IG", "random alpha-beta", "grid alpha-beta",
              "grid alpha-beta, one parameter", "random epsilon", "grid epsilon"}  # fmt: skip
    assert rivals | {"EVO alpha-beta", "EVO epsilon"} <= set(one.method)
    tuned = one[one.method.isin(["EVO alpha-beta", "EVO epsilon"])]
    assert set(tuned.objective) == {"FC", "SP", "AS", "composite"}
    assert one[["FC", "SP", "AS"]].notna().all().all() and one.SP.between(0, 1).all() and (one.AS >= 0).all()


def test_searches_had_the_same_budget_and_their_parameters_are_within_the_bounds(result: Path) -> None:
    searches = table(result, "table-search")
    assert set(searches.strategy) == {"cma", "random", "grid"} and set(searches.candidates) == {4} and not searches.failed.any()
    values = searches.filter(like="group_")
    assert values[searches.family == "alpha_beta"].stack().between(1, 5).all()
    assert values[searches.family == "epsilon"].stack().between(1e-4, 10).all()
    cost = table(result, "table-cost")
    np.testing.assert_allclose(cost.seconds / cost.candidates, cost.seconds_a_candidate)


def test_relevance_is_conserved_where_the_rule_says_so(result: Path) -> None:
    error = table(result, "table-conservation").set_index("rule").error
    assert error["ε → 0, keep"] < 1e-6 and error["α = 1, spread"] < 1e-9 and error["α = 2, spread"] < 1e-9


def test_claims_follow_from_the_tables(result: Path) -> None:
    claims = pd.read_csv(result / "claims.csv", keep_default_na=False, dtype=str).set_index("name").holds
    assert {"c1-better-fc", "c1-evolution-random", "c3-balance", "c7-classes", "c9-epsilon-less", "transfer-photographs"} <= set(
        claims.index
    )
    assert claims["transfer-networks"] == ""  # its weights are not there, which is said and never left out
    found = table(result, "table-differences")
    against = found[found.against == "random alpha-beta"]
    assert len(against) == 3 and (against.images == 1).all()
    sparse = found[(found.ours == "EVO epsilon") & (found.metric == "SP") & (found.against == "untuned epsilon")].iloc[0]
    assert claims["c2-epsilon-sparse"] == str(bool(sparse.low > 0)).lower()


def test_figures_fit_a_page_and_the_run_is_small(result: Path) -> None:
    check_size(result)
