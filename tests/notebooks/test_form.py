"""What holds of every notebook's source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_cells_are_short_and_the_source_has_no_outputs(notebook: Path) -> None:
    cells = json.loads(notebook.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code and max("".join(cell["source"]).count("\n") + 1 for cell in code) <= 20
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)


def test_there_are_notebooks() -> None:
    papers = {"01_elime", "02_advise", "03_evo_lrp", "04_xai_framework", "05_counterfactuals"}
    assert {"00_start_here", *papers} <= {path.stem for path in NOTEBOOKS}
