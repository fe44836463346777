"""A small project of real notebooks, driven through the `xai` command in processes of its own."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbformat import v4

REPOSITORY = Path(__file__).resolve().parents[2]
PARAMETERS = (
    'runs: int = 3  # how often\nseed = 0  # for everything\noutput_dir: str = ""  # set by the runner'
)
COMPLETE = [
    "# A complete one <script>alert(1)</script>\n\n*A. Author*: **The paper**, 2024.",
    "@" + PARAMETERS,
    ">import os\nfrom pathlib import Path\nfrom xai_lib import runs\n"
    "results = runs.Results(output_dir)\n"
    "print(os.environ['OMP_NUM_THREADS'], 'threads in', os.getcwd())",
    "## Figures",
    ">import pandas\nfrom matplotlib import pyplot\n"
    "figure, axes = pyplot.subplots(figsize=(2, 1))\naxes.plot([1, 2])\n"
    "results.figure('figure-3', figure, caption='A line, <b>rising</b>', paper='Figure 3')",
    ">frame = pandas.DataFrame({'n': range(20), 'x<y': [i / 7 for i in range(20)]})\n"
    "results.table('table-1', frame, caption='Sevenths', paper='Table I')\n"
    "results.claim('speed', paper='ten times faster', ours='41x <fast>', holds=True, label='replicated')\n"
    "results.claim('open', paper='it is \"best\"', ours='2 of 4', holds=None)\n"
    "results.not_shown('Figure 17', reason='the authors kept it')\n"
    "results.record('fitness', {'precision': 'float32', 'seed': seed})",
    ">results.input('data/photograph.bin')\n"
    "results.input(Path(os.environ['XAI_WEIGHTS_HOME']) / 'absent.pth')\n"
    "results.claims()",
]


@dataclass
class Compendium:
    """A project in a temporary folder, and a copy of the package beside it that tests may edit."""

    root: Path
    package: Path

    def write(self, name: str, *cells: str) -> None:
        """Write a notebook: `>code`, `@parameters`, `%>code` that measures, anything else is Markdown."""
        made = []
        for cell in cells:
            tags = [tag for mark, tag in (("@", "parameters"), ("%", "measure")) if cell.startswith(mark)]
            code = cell.removeprefix("%")
            made.append(
                v4.new_code_cell(code[1:], metadata={"tags": tags}) if code[0] in "@>" else v4.new_markdown_cell(cell)
            )
        nbformat.write(v4.new_notebook(cells=made), self.root / "notebooks" / f"{name}.ipynb")

    @property
    def environment(self) -> dict[str, str]:
        own = {"PYTHONPATH": str(self.package), "XAI_WEIGHTS_HOME": str(self.root / "weights")}
        return {**os.environ, **own}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "xai_lib.runs.command", *arguments]

    def xai(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(*arguments),
            cwd=self.root,
            env=self.environment,
            text=True,
            capture_output=True,
            timeout=120,
        )

    def start(self, *arguments: str, **more: Any) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.root,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **more,
        )

    def path(self, *parts: str) -> Path:
        return self.root.joinpath("papermill_runs", *parts)


def new_compendium(folder: Path) -> Compendium:
    root, package = folder / "project", folder / "package"
    (root / "notebooks").mkdir(parents=True)
    (root / "data").mkdir()
    (root / "data" / "photograph.bin").write_bytes(b"pixels")
    (root / "papermill_runs" / "profiles").mkdir(parents=True)
    shutil.copy(REPOSITORY / "papermill_runs" / "Snakefile", root / "papermill_runs")
    (root / "papermill_runs" / "profiles" / "default.yaml").write_text("# notebook: {parameter: value}\n")
    leave_out = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "xai_lib" / "runs", package / "xai_lib" / "runs", ignore=leave_out)
    for name in ("__init__.py", "errors.py"):
        shutil.copy(REPOSITORY / "xai_lib" / name, package / "xai_lib")
    return Compendium(root, package)


@dataclass
class Batch:
    """One `xai run` over notebooks of which some fail, done once; tests that change anything take a copy."""

    compendium: Compendium
    ended: "subprocess.CompletedProcess[str]"
