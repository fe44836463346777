"""`xai explain` as a user meets it, in a process of its own where that matters and within this one elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tests.networks import tiny
from xai_lib import classifiers
from xai_lib.classifiers import Classifier
from xai_lib.command.explain import ExplainError, Outcome, find_class, run
from xai_lib.errors import XaiError
from xai_lib.explainers import lime
from xai_lib.framework import Framework
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


CLASSES = ["Cardigan", "tench", "cardigan", "crane", "crane", "7", "Straße"]


def named(classes: list[str]) -> Classifier:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(),
                                  torch.nn.Linear(32, len(classes)))  # fmt: skip
    return Classifier(network, name="named", view=View(32, 36), class_names=classes)


def test_the_exact_spelling_wins_and_ambiguity_is_said() -> None:
    classifier = named(CLASSES)
    for wanted, index in (("Cardigan", 0), ("cardigan", 2), ("TENCH", 1), ("3", 3), ("7", 5), ("0", 0), ("STRASSE", 6)):
        assert find_class(classifier, wanted) == index, wanted
    for wanted, message in (
        ("CARDIGAN", "has 2 such classes: Cardigan (0), cardigan (2); spell it as one of them, or give its number"),
        ("crane", "has 2 such classes: crane (3), crane (4); give its number"),
        ("Crane", "has 2 such classes: crane (3), crane (4)"), ("cardigam", "nearest: Cardigan"), ("", "has no class of"),
        ("8", "has the classes 0 to 6"),
    ):  # fmt: skip
        with pytest.raises(ExplainError) as caught:
            find_class(classifier, wanted)
        assert message in str(caught.value)


def test_imagenet_has_a_dog_and_a_garment_of_one_name() -> None:
    classifier = classifiers.load("efficientnet_lite0")
    assert find_class(classifier, "Cardigan") == 264 and find_class(classifier, "cardigan") == 474
    with pytest.raises(ExplainError, match=r"2 such classes: Cardigan \(264\), cardigan \(474\)"):
        find_class(classifier, "CARDIGAN")
    assert find_class(classifier, "tiger CAT") == 282


def settings_of(monkeypatch: pytest.MonkeyPatch, photo: Path, methods: list[str], **how: Any) -> tuple[dict[str, Any], Outcome]:
    """The settings with which the framework was asked; it is built once."""
    built: list[Framework] = []
    build = Framework.__init__
    monkeypatch.setattr(Framework, "__init__", lambda self, *a, **k: (built.append(self), build(self, *a, **k))[1])
    outcome = run([photo], "tiny", methods, None, photo.with_suffix(".out.png"), how.get("samples"), 0, how.get("layer"))
    assert len(built) == 1
    return built[0].settings, outcome


def test_samples_are_a_number_or_each_methods_own(
    photos: Path, small: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = photos / "b.jpg"
    absent, _ = settings_of(monkeypatch, file, ["grad_cam", "shap", "lime"])
    assert absent["shap"].samples == 50 and absent["lime"].samples == lime.Settings().samples
    given, _ = settings_of(monkeypatch, file, ["lime"], samples=50)
    assert given["lime"].samples == 50, "no number means absent"
    _, outcome = settings_of(monkeypatch, file, ["rap"], samples=9)
    assert outcome.remarks == ["--samples 9 has no effect: none of the methods takes samples"]


def test_a_layer_is_that_of_all_methods_which_look_at_one(
    photos: Path, small: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    named_layers = [name for name, module in small.network.named_modules() if isinstance(module, torch.nn.ReLU)]
    settings, outcome = settings_of(monkeypatch, photos / "b.jpg", ["grad_cam", "lrp", "shap"], layer=named_layers[0], samples=4)
    assert settings["grad_cam"].layer == settings["shap"].layer == named_layers[0] and not outcome.refusals
    assert settings["grad_cam"].score == "logit", "other settings stay"
    for methods, layer, message in (
        (["lrp"], named_layers[0], "none of the methods looks at one layer: lrp"),
        (["grad_cam"], "layer9", "tiny has no layer 'layer9'"), (["grad_cam"], "pixels", "tiny has no layer 'pixels'"),
    ):  # fmt: skip
        with pytest.raises(XaiError, match=message):
            run([photos / "b.jpg"], "tiny", methods, None, photos / "x.png", None, 0, layer)


OWN = """
import torch
from torch import nn
import beside
from xai_lib.classifiers import Classifier
from xai_lib.images import View

def network(channels=3, classes=3):
    torch.manual_seed(0)
    features = nn.Conv2d(channels, 8, 5, 2, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4)
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(128, classes))

def fails():
    raise KeyError("no weights here")

def leaves():
    raise SystemExit("usage: train.py")

def needs(path):
    return network()

def one():
    return network(classes=1)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = network()
    def forward(self, x):
        return self.inner(x)

class Nested:
    made = network()

state = dict(weight=torch.zeros(3))
number = 7
grey = Classifier(network(1), name="grey", mean=(0.5,), std=(0.25,), view=View(32, 36), class_names=["ant", "bee", "cat"])
five = Classifier(network(5), name="five", mean=(0.5,) * 5, std=(0.25,) * 5, view=View(32, 36))
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "beside.py").write_text("")
    (tmp_path / "torch.py").write_text("build = None")
    (tmp_path / "syntax.py").write_text("x = 1\ndef build()\n    pass\n")
    (tmp_path / "raises.py").write_text("import os\n\nos.environ['NO_SUCH_VARIABLE_HERE']\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "own.py"


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("nope.py:build", "expected a Python file nope.py, found nothing of that name"),
        ("own.py", "name what in it gives the network, own.py:NAME"),
        ("own.py:", "name what in it gives the network, own.py:NAME"),
        ("own.py:netwrok", "own.py has no 'netwrok'; nearest: network"),
        ("own.py:Nested.absent", "own.py has no 'absent'"),
        ("own.py:fails", "fails\\(\\) raised KeyError: 'no weights here' \\(.*own.py:14\\)"),
        ("own.py:leaves", "leaves\\(\\) raised SystemExit: usage: train.py \\(.*own.py:17\\)"),
        ("own.py:needs", "needs\\(\\) raised TypeError: needs\\(\\) missing 1 required positional argument: 'path'"),
        ("own.py:state", "expected state to be or to return an nn.Module or a Classifier, found dict; load the state dict"),
        ("own.py:number", "found int"),
        ("own.py:five", "five takes images of 5 channels; xai explain gives 3, or 1 by luminance"),
        ("own.py:one", "found one output column"),
        ("torch.py:build", "found NoneType"),
        ("syntax.py:build", "running syntax.py raised SyntaxError: expected ':' \\(.*syntax.py:2\\)"),
        ("raises.py:build", "running raises.py raised KeyError: 'NO_SUCH_VARIABLE_HERE' \\(.*raises.py:3\\)"),
        ("no.such.module:build", "no module 'no'; expected FILE.py:NAME or MODULE:NAME"),
        ("raises:build", "importing raises raised KeyError"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_network_of_ones_own_is_said(own: Path, photos: Path, network: str, message: str) -> None:
    before = list(sys.path)
    with pytest.raises(XaiError, match=message):
        run([photos / "b.jpg"], network, ["grad_cam"], None, own.with_name("x.png"), None, 0)
    assert sys.path == before and sys.modules["torch"] is torch


@pytest.mark.parametrize("name", ["network", "Net", "Nested.made", "grey"])
@pytest.mark.parametrize("place", ["own.py", "own"])
def test_a_network_of_ones_own(own: Path, photos: Path, place: str, name: str) -> None:
    outcome = run([photos / "a.png"], f"{place}:{name}", ["grad_cam", "lrp_composite"], None, own.with_name("x.png"), None, 0)
    assert outcome.explained and not outcome.refusals | outcome.left_out and outcome.written[0].is_file()
    assert len(outcome.remarks) == (name != "grey")
    assert all("RGB images of 224 pixels" in remark and "return Classifier(" in remark for remark in outcome.remarks)
    for module in [m for m in sys.modules if m in ("own", "beside") or m.startswith("_own_network_")]:
        del sys.modules[module]


def test_grey_networks_get_the_luminance(own: Path, photos: Path) -> None:
    from xai_lib import images
    from xai_lib.command import own_network

    grey = own_network.load("own.py:grey", [])
    found = images.load(photos / "b.jpg")
    batch = found.batch(grey)
    by_hand = Image.fromarray(grey.view._cropped(found[0].pixels)).convert("L")
    assert batch.shape == (1, 1, 32, 32) and torch.equal(batch[0, 0] * 255, torch.tensor(np.array(by_hand)).float())
    weights = torch.tensor([0.299, 0.587, 0.114])
    assert (found.batch(grey.view)[0].permute(1, 2, 0) @ weights - batch[0, 0]).abs().max() < 1.01 / 255
    with pytest.raises(images.ImageError, match="3 channels, or of 1 for luminance, found 5"):
        found.batch(own_network.load("own.py:five", []))


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


def test_exit_codes_belong_to_the_kind_of_error_and_to_what_is_derived_from_it() -> None:
    from xai_lib.runs.batch import BatchError
    from xai_lib.runs.comparison import DamagedReferenceError
    from xai_lib.runs.lock import HeldError
    from xai_lib.runs.publication import PublishError

    class Renamed(HeldError):
        pass

    kinds = (XaiError, ExplainError, HeldError, Renamed, BatchError, PublishError, DamagedReferenceError)
    assert [kind("").exit_code for kind in kinds] == [2, 2, 3, 3, 1, 1, 1]
