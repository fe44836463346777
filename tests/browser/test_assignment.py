"""The student's side in JupyterLab: a released assignment, one task solved, wrong first, with a message that helps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest

from tests.course import releases

if TYPE_CHECKING:
    from tests.browser.lab import Lab

WITHOUT_RELU = """def forward(layers, x):
    found = [x]
    for weights, bias in layers:
        found.append(found[-1] @ weights + bias)
    return found"""
RIGHT = """def forward(layers, x):
    found = [x]
    for weights, bias in layers:
        z = found[-1] @ weights + bias
        found.append(z if len(found) == len(layers) else np.maximum(z, 0))
    return found"""


def answer(lab: Lab, code: str) -> None:
    """Write `code` into the cell of the first task, in place of what is there, as by hand."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    def editor() -> bool:
        for cell in lab.driver.find_elements(By.CSS_SELECTOR, ".jp-CodeCell .cm-content"):
            if "def forward(" in cell.text:
                lab.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", cell)
                cell.click()
                return True
        return False

    lab.until(editor, "the cell of `forward`")
    ActionChains(lab.driver).key_down(Keys.CONTROL).send_keys("a").key_up(Keys.CONTROL).perform()
    lab.driver.execute_cdp_cmd("Input.insertText", {"text": code})
    lab.until(lambda: code.splitlines()[-2].strip() in lab.text(), "the answer in its cell")


def test_a_student_solves_the_first_task(lab: Lab, tmp_path: Path) -> None:
    pytest.importorskip("nbgrader", reason="nbgrader (the extra `course`) is not installed")
    release = nbformat.read(releases.made("03_evo_lrp", tmp_path), as_version=4)
    names = [cell.metadata.get("nbgrader", {}).get("grade_id") for cell in release.cells]
    release.cells = release.cells[: names.index("test-forward") + 1]
    nbformat.write(release, lab.folder / "03_evo_lrp.ipynb")
    lab.open("03_evo_lrp.ipynb")
    lab.run_all()
    lab.until(lambda: "NotImplementedError" in errors(lab), "the unsolved task's error")

    answer(lab, WITHOUT_RELU)
    lab.run_all()
    lab.until(lambda: "hidden activations must be 0 or more; where is the ReLU?" in errors(lab), "what is wrong")

    answer(lab, RIGHT)
    lab.run_all()
    lab.until(lambda: not errors(lab), "no error any more")


def errors(lab: Lab) -> str:
    """The text of all tracebacks that are shown."""
    from selenium.webdriver.common.by import By

    found = lab.driver.find_elements(By.CSS_SELECTOR, ".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']")
    return "\n".join(each.text for each in found)
