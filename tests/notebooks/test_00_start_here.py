"""The first notebook run for real with few methods, and with a photograph of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.notebooks.form import check_size, finished
from xai_lib import explainers

NOTEBOOK = "00_start_here"
READ_AS = {
    "advise": "**ADVISE**", "elime": "**E-LIME**", "evo_lrp": "**EVO-LRP**", "fem": "**FEM**", "grad_cam": "**Grad-CAM**",
    "grad_cam_pp": "**Grad-CAM++**", "greedy_deletion": "**Greedy deletion**", "greedy_insertion": "**greedy insertion**",
    "integrated_gradients": "**Integrated gradients**", "layer_cam": "**Layer-CAM**", "lime": "**LIME**",
    "lime_stratified": "**Stratified LIME**", "lrp": "**LRP, z⁺ and ε**", "lrp_composite": "**LRP** by depth",
    "random_search": "**random search**", "rap": "**RAP**", "score_cam": "**Score-CAM**", "shap": "**SHAP**",
}  # fmt: skip


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, on a photograph that is in a folder of the reader's."""
    root = tmp_path_factory.mktemp("project")
    own = root / "my cat.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 260, 3), dtype=np.uint8)).save(own)
    return finished(root, NOTEBOOK, {"photograph": str(own), "methods": "grad_cam,fem,rap,lrp", "device": "cpu"})


def test_one_figure_has_every_method_and_refusals_are_words(result: Path) -> None:
    handed = json.loads((result / "run.json").read_text())["results"]
    assert {"answer", "every-method", "second-guess"} == {figure["name"] for figure in handed["figures"]}
    methods = pd.read_csv(result / "tables" / "table-methods.csv")
    assert set(methods.method) == {"grad_cam", "fem", "lrp"} and set(methods.calls) == {1, 2}
    assert methods.agrees.between(-1, 1).all()
    assert "<strong>rap</strong> refused" in (result / f"{NOTEBOOK}.html").read_text()
    check_size(result)


def test_a_method_without_a_class_gives_the_same_map(result: Path) -> None:
    second = pd.read_csv(result / "tables" / "table-second.csv").set_index("method").same_map
    assert second["fem"] == pytest.approx(1) and second["grad_cam"] < 0.99


def test_it_explains_how_to_read_each_method() -> None:
    source = (Path(__file__).parents[2] / "notebooks" / f"{NOTEBOOK}.ipynb").read_text()
    missing = [name for name in explainers.names() if READ_AS[name] not in source]
    assert not missing
