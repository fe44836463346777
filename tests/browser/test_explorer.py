"""The explorer as a reader has it: notebook 04 in JupyterLab, a mouse, a picture that changes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat

if TYPE_CHECKING:
    from tests.browser.lab import Lab

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "04_xai_framework.ipynb"


def shortened() -> nbformat.NotebookNode:
    """Notebook 04 from its beginning to the photographs, and its explorer: what lies between takes minutes."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    end = next(i for i, cell in enumerate(notebook.cells) if "chosen = everything.select(" in cell.source)
    own = [cell for cell in notebook.cells if cell.cell_type == "code" and "explorer.explore(" in cell.source]
    assert len(own) == 1
    notebook.cells = notebook.cells[: end + 1] + own
    return notebook


def words(lab: Lab, css: str) -> str:
    return lab.output(f".xai-explorer {css}").text


def source(lab: Lab, css: str) -> str:
    found = lab.output(css).get_attribute("src")
    assert found
    return found


def test_a_reader_explores_a_photograph(lab: Lab) -> None:
    nbformat.write(shortened(), lab.folder / NOTEBOOK.name)
    lab.open(NOTEBOOK.name)
    lab.run_all()
    lab.until(lambda: "Grad-CAM: 2 images" in words(lab, ".xai-status"), "the first map")
    before = float(words(lab, ".xai-before"))
    assert float(words(lab, ".xai-now")) == before
    whole = source(lab, ".xai-photograph")

    # another method: another map, the same photograph
    lab.changes(lambda: source(lab, ".xai-map"), lambda: lab.choose(".xai-method select", "Layer-CAM"), "map")
    lab.until(lambda: "Layer-CAM: 2 images" in words(lab, ".xai-status"), "the second map")
    assert source(lab, ".xai-photograph") == whole

    # a click erases the superpixel below it, another brings it back
    photograph = lab.output(".xai-photograph")
    lab.changes(lambda: words(lab, ".xai-now"), lambda: lab.click_at(photograph, 0.45, 0.55), "probability")
    assert "1 superpixel clicked" in words(lab, ".xai-erased") and source(lab, ".xai-photograph") != whole
    erased = source(lab, ".xai-photograph")
    lab.changes(lambda: words(lab, ".xai-now"), lambda: lab.click_at(photograph, 0.45, 0.55), "probability")
    lab.until(lambda: words(lab, ".xai-erased").startswith("0 superpixels clicked; 0.0%"), "the whole photograph")
    assert source(lab, ".xai-photograph") != erased
    assert float(words(lab, ".xai-now")) == before

    # the slider erases the most relevant pixels
    slider = lab.output(".xai-share .noUi-target")
    lab.changes(lambda: words(lab, ".xai-now"), lambda: lab.click_at(slider, 0.2, 0.5), "probability")
    lab.until(lambda: re.match(r"0 superpixels clicked; (19|20|21)\.\d%", words(lab, ".xai-erased")), "a fifth of the pixels")
    lab.until(lambda: float(words(lab, ".xai-now")) < before, "a lower probability")

    # a long method reports, answers meanwhile and can be cancelled
    lab.choose(".xai-method select", "LIME")
    lab.until(lambda: "of 1000" in words(lab, ".xai-status"), "progress")
    lab.changes(lambda: words(lab, ".xai-now"), lambda: lab.click_at(photograph, 0.2, 0.3), "probability")
    assert "1 superpixel clicked" in words(lab, ".xai-erased")
    lab.output(".xai-cancel").click()
    lab.until(lambda: "cancelled after" in words(lab, ".xai-status"), "the end of LIME")
