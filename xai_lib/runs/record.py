"""The files of a complete run: the executed notebook, its HTML, `claims.csv` and `run.json`."""

import csv
import html
import json
import os
import platform
import re
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from xai_lib.runs import folders, freshness, hardware, notebook
from xai_lib.runs.job import Job
from xai_lib.runs.results import CLAIM_COLUMNS, MANIFEST

_NOTHING: dict[str, Any] = {
    "figures": [],
    "tables": [],
    "claims": [],
    "not_shown": [],
    "inputs": [],
    "record": {},
    "units": {"kept": 0, "measured": 0},
}


def complete(job: Job, executed: NotebookNode, seconds: list[float]) -> None:
    """Write what makes the working folder a result; `run.json`, with the others' sha256, comes last."""
    _write_notebook(job, executed)
    handed = handed_over(job.working)
    (job.working / MANIFEST).unlink(missing_ok=True)
    gpu = handed.pop("gpu", None)
    _write_claims(job.working / "claims.csv", handed["claims"])
    hashes = {"notebook": notebook.content_hash(job.source), "package": job.package}
    hashes["key"] = freshness.key(hashes["notebook"], hashes["package"], job.parameters)
    units = handed.pop("units")
    content = {
        "notebook": job.name,
        "profile": job.profile,
        "state": "complete",
        "finished": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "seconds": round(time.time() - job.began, 1),
        "cell_seconds": seconds,
        "parameters": job.parameters,
        "units": units,
        "seeds": {name: value for name, value in job.parameters.items() if name.startswith("seed")},
        "versions": _versions(),
        "hardware": {**hardware.describe(), "threads": job.threads, "gpu": gpu},
        "hashes": hashes,
        "results": json.loads(neutral(json.dumps(handed), job.project.root)),
        "files": folders.files(job.working),
    }
    (job.working / freshness.RECORD).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def handed_over(working: Path) -> dict[str, Any]:
    """What the notebook has handed over through `Results`, by kind."""
    path = working / MANIFEST
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {**_NOTHING}


def _write_notebook(job: Job, executed: NotebookNode) -> None:
    """The notebook and its HTML, free of paths of this machine and of this run's working folder."""
    from nbconvert import HTMLExporter

    executed.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for cell in executed.cells:
        cell.metadata.pop("execution", None)
    text = neutral(nbformat.writes(executed), job.project.root).replace(job.working.name, job.name) + "\n"
    (job.working / f"{job.name}.ipynb").write_text(text, encoding="utf-8")
    page, _ = HTMLExporter().from_notebook_node(
        _described(nbformat.reads(text, as_version=4)),
        {"metadata": {"name": notebook.title(job.source, job.name)}},
    )
    (job.working / f"{job.name}.html").write_text(page, encoding="utf-8")


def _described(executed: NotebookNode) -> NotebookNode:
    """Pictures as HTML with their alt text, which nbconvert would leave out."""
    for cell in executed.cells:
        for output in cell.get("outputs", []):
            about = output.get("metadata", {}).get("image/png", {})
            if "alt" in about:
                data = "".join(output.data["image/png"].split())
                source = f'src="data:image/png;base64,{data}" width="{about["width"]}"'
                output.data = {"text/html": f'<img alt="{html.escape(about["alt"])}" {source}>'}
    return executed


def neutral(text: str, root: Path) -> str:
    """Text without this machine's paths: relative in the project, `$XAI_..._HOME`, `$PREFIX` and `~` elsewhere."""
    homes = {os.environ[name]: f"${name}" for name in ("XAI_DATA_HOME", "XAI_WEIGHTS_HOME") if os.environ.get(name)}
    places = {sys.prefix: "$PREFIX", str(root): ".", str(Path.home()): "~"} | homes
    for place in sorted(places, key=len, reverse=True):
        if len(place) > 3:
            found, name = re.escape(place), places[place]
            text = re.sub(rf"(?<![\w.]){found}/", "" if name == "." else f"{name}/", text)
            text = re.sub(rf"(?<![\w.]){found}(?![\w.-])", name, text)
    return text


def _write_claims(path: Path, claims: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(stream, CLAIM_COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(
            {**claim, "holds": {True: "true", False: "false", None: ""}[claim["holds"]]} for claim in claims
        )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("xai-lib", "torch", "torchvision", "timm", "numpy", "scikit-image", "lime"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
