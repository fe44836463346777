"""`xai explain` as a user meets it, in a process of its own where that matters and within this one elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from tests.networks import tiny
from xai_lib import classifiers
from xai_lib.classifiers import Classifier
from xai_lib.command.explain import ExplainError, find_class, run
from xai_lib.errors import XaiError
from xai_lib.images import View

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.usefixtures("one_thread")


def xai(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "100"}
    command = [sys.executable, "-m", "xai_lib.command", "explain", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=environment)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two pictures, one with four channels, and a file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = (torch.rand(40, 50, 4, generator=torch.Generator().manual_seed(0)) * 255).byte().numpy()
    Image.fromarray(pixels, "RGBA").save(folder / "a.png")
    Image.fromarray(pixels[..., :3].copy()).save(folder / "b.jpg")
    (folder / "c.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Classifier:
    """The network of this name is a tiny one."""
    classifier = Classifier(tiny().network, name="tiny", view=View(32, 36), class_names=["ant", "Bee", "cat", "dog", "big dog"])
    monkeypatch.setattr(classifiers, "load", lambda name: classifier)
    return classifier


def test_one_photograph(photos: Path, small: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run([photos / "a.png"], "tiny", [], None, None, 4, 0)
    assert outcome.written == [Path("a-explained.png")] and outcome.explained and not outcome.left_out | outcome.refusals
    with Image.open("a-explained.png") as picture:
        assert picture.width > 900
    again = run([photos / "a.png"], "tiny", [], "bee", tmp_path / "new" / "named.png", 4, 0)
    assert again.written == [tmp_path / "new" / "named.png"] and again.written[0].is_file()


def test_a_folder_with_a_bad_file(photos: Path, small: Classifier, tmp_path: Path) -> None:
    outcome = run([photos], "tiny", ["grad_cam", "rap"], "2", tmp_path / "out", 4, 0)
    assert [p.name for p in outcome.written] == ["a.png", "b.png", "table.csv"]
    assert list(outcome.left_out) == ["c"] and "c.jpg" in outcome.left_out["c"]
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    assert list(table["photo"]) == ["a", "b"] and set(table["target"]) == {"cat"}
    assert {"predicted", "probability", "grad_cam_centre", "grad_cam_strongest", "grad_cam_balance"} <= set(table)
    assert "rap_balance" in table or "rap_refused" in table


def test_classes_by_number_and_name(small: Classifier) -> None:
    assert [find_class(small, w) for w in ("3", "BEE", "big dog", "dog")] == [3, 1, 4, 3]
    for wanted, message in (
        ("5", "tiny has the classes 0 to 4"), ("-1", "tiny has the classes 0 to 4"), ("bi", "names with it: big dog"),
        ("caat", "tiny has no class of that name; nearest: cat"),
    ):  # fmt: skip
        with pytest.raises(ExplainError, match=message):
            find_class(small, wanted)


def test_where_nothing_can_be_written(photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "file.png"
    file.touch()
    for paths, out, message in (
        ([photos], file, "is a file; several photographs need a folder"),
        ([photos / "a.png"], tmp_path, "is a folder; name the picture"),
        ([photos / "a.png"], tmp_path / "x.jpg", "expected a name that ends in .png"),
        ([photos / "z.png"], None, "no such file or folder: .*z.png"),
    ):
        with pytest.raises(ExplainError, match=message):
            run(paths, "tiny", [], None, out, 4, 0)


def test_the_command_on_the_real_network(photos: Path, tmp_path: Path) -> None:
    done = xai(photos / "a.png", photos / "c.jpg", "--method", "grad_cam", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert done.stdout.split() == [str(tmp_path / "out" / name) for name in ("a.png", "table.csv")]
    assert done.stderr.startswith("xai: left out c: ") and "Traceback" not in done.stderr and "warn" not in done.stderr.lower()


def test_mistakes(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XAI_WEIGHTS_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for network, methods, target, message in (
        ("efficientnet_lite0", ["gradcam"], None, "no explainer is called 'gradcam'; nearest: grad_cam"),
        ("efficientnet_lite0", [], "tabbi", "--target 'tabbi': efficientnet_lite0 has no class of that name; nearest: "),
        ("resnet5", [], None, "no network is called 'resnet5'; nearest: "),
        ("resnet50", [], None, "load('resnet50', download=True), or take another --network: "),
    ):
        with pytest.raises(XaiError) as caught:
            run([photos / "a.png"], network, methods, target, None, 4, 0)
        assert message in str(caught.value) and not list(tmp_path.glob("*.png"))
    done = xai(photos / "z.png")
    assert done.returncode == 2 and done.stderr.startswith("xai: no such file or folder: ") and "Traceback" not in done.stderr


def test_help_has_examples_and_starts_fast() -> None:
    shown = xai("--help").stdout
    assert '  xai explain cat.jpg --target "tabby"' in shown and "--samples" in shown
    assert "Exit codes: 0 all" in " ".join(shown.split())
    code = "import sys, xai_lib.command; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert {"torch", "numpy", "pandas", "matplotlib", "PIL"}.isdisjoint(loaded)
