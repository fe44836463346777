"""Real networks by name: right on real photographs, safe to read, clear when something is missing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.networks import picture, tiny
from xai_lib import classifiers, explainers, images
from xai_lib.classifiers import Classifier, ClassifierError, Provenance, UnknownNetwork, WeightsError
from xai_lib.errors import XaiError
from xai_lib.images import View

needs_weights = pytest.mark.skipif(not os.environ.get("XAI_WEIGHTS_HOME"), reason="XAI_WEIGHTS_HOME is not set")
needs_data = pytest.mark.skipif(not os.environ.get("XAI_DATA_HOME"), reason="XAI_DATA_HOME is not set")


@pytest.fixture(scope="module")
def lite0() -> Classifier:
    return classifiers.load("efficientnet_lite0")


def test_lite0_answers_as_measured_on_packaged_photographs(lite0: Classifier) -> None:
    photographs = images.load("photos").select(["coffee", "stereo_motorcycle", "chelsea", "flower", "camera"])
    top = lite0.top(photographs.batch(lite0.view), 1)
    assert [t[0].index for t in top] == [967, 665, 282, 985, 872]
    assert [t[0].name for t in top] == ["espresso", "moped", "tiger cat", "daisy", "tripod"]
    assert [t[0].probability for t in top] == pytest.approx([0.951, 0.540, 0.395, 0.315, 0.936], abs=0.005)


@needs_data
@pytest.mark.parametrize(("name", "right"), [
    ("efficientnet_lite0", 165), ("mobilenetv1_075", 167), ("squeezenet1_1", 111),
])  # fmt: skip
def test_real_networks_are_right_on_real_photographs(name: str, right: int) -> None:
    """Of 200; 170, 172 and 116 were measured (efficientnet_lite1 and lite2: 177)."""
    if reason := classifiers.available([name])[name]:
        pytest.skip(reason)
    classifier = classifiers.load(name)
    samples = images.load("imagenet-samples")
    found = torch.cat([classifier.probabilities(batch) for batch in samples.batch(classifier.view).split(50)])
    labels = torch.tensor(samples.labels)
    assert int((found.argmax(1) == labels).sum()) >= right


@pytest.mark.parametrize(
    ("name", "espresso", "tripod"), [("efficientnet_lite1", 0.542, 0.630), ("efficientnet_lite2", 0.885, 0.616)]
)
def test_the_other_packaged_networks_answer_as_measured(
    name: str, espresso: float, tripod: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are part of every installation: the default notebooks compare networks by them."""
    monkeypatch.delenv("XAI_WEIGHTS_HOME", raising=False)
    network = classifiers.load(name)
    one, two = network.top(images.load("photos").select(["coffee", "camera"]).batch(network.view), 1)
    assert [one[0].index, two[0].index] == [967, 872]
    assert [one[0].probability, two[0].probability] == pytest.approx([espresso, tripod], abs=0.005)
    assert all(m.eps == 1e-3 for m in network.network.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_normalisation_belongs_to_the_classifier(lite0: Classifier) -> None:
    image = picture(0, 224)[None]
    with torch.no_grad():
        by_hand = lite0.network((image * 255 - 127) / 128)
        assert torch.allclose(lite0(image), by_hand, atol=1e-4)
        assert torch.allclose(lite0.probabilities(image).sum(), torch.tensor(1.0))


def test_provenance_names_the_file_and_its_checksum(lite0: Classifier) -> None:
    assert lite0.provenance.licence == "Apache-2.0"
    assert lite0.provenance.sha256 is not None and lite0.provenance.sha256.startswith("57934424")
    assert "efficientnet_lite0" in repr(lite0)


def test_feature_layers_are_the_last_maps_before_pooling(lite0: Classifier) -> None:
    seen = {}
    hook = lite0.layer(lite0.feature_layer).register_forward_hook(lambda m, i, o: seen.update(shape=tuple(o.shape)))
    lite0.probabilities(torch.zeros(1, 3, 224, 224))
    hook.remove()
    assert seen["shape"] == (1, 1280, 7, 7)
    assert tiny().feature_layer == "5", "after the activation"
    with pytest.raises(ClassifierError, match="tiny has no layer 'feature'"):
        tiny().layer("feature")


def test_unknown_names_name_the_nearest() -> None:
    nearest = "nearest: efficientnet_lite2, efficientnet_lite1, efficientnet_lite0"
    with pytest.raises(UnknownNetwork, match=f"no network is called 'efficientnet_lite'; {nearest}"):
        classifiers.load("efficientnet_lite")
    with pytest.raises(UnknownNetwork, match="timm has no network called 'resnet55'; nearest: .*resnet50"):
        classifiers.load("timm:resnet55")


def test_missing_weights_name_file_places_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XAI_WEIGHTS_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with pytest.raises(WeightsError) as error:
        classifiers.load("mobilenetv1_075")
    assert "mobilenetv1_075-keras.pth" in str(error.value) and str(tmp_path) in str(error.value)
    with pytest.raises(WeightsError, match=r"resnet18-f37072fd\.pth not found; looked in: .*checkpoints.*download=True"):
        classifiers.load("resnet18")
    with pytest.raises(WeightsError, match=r"squeezenet1_1-b8a52dc0\.pth or squeezenet1_1-onnx-model-zoo\.pth not found"):
        classifiers.load("squeezenet1_1")
    assert "not found" in classifiers.available(["mobilenetv1_075"])["mobilenetv1_075"]


def test_torchvision_and_timm_networks_take_a_file(tmp_path: Path) -> None:
    import timm
    import torchvision

    network = torchvision.models.squeezenet1_1()
    torch.save(network.state_dict(), tmp_path / "a.pth")
    loaded = classifiers.load("squeezenet1_1", weights=tmp_path / "a.pth")
    assert loaded.provenance.file == tmp_path / "a.pth"
    assert torch.equal(loaded.network.state_dict()["classifier.1.bias"], network.state_dict()["classifier.1.bias"])
    other = timm.create_model("mobilenetv3_small_050", pretrained=False)
    save_file(other.state_dict(), tmp_path / "b.safetensors")
    small = classifiers.load("timm:mobilenetv3_small_050", weights=tmp_path / "b.safetensors")
    assert small.classes == 1000 and small.view.interpolation == "bicubic"


def test_torchvision_networks_are_found_in_the_weights_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    monkeypatch.setenv("XAI_WEIGHTS_HOME", str(tmp_path))
    network = torchvision.models.mobilenet_v3_small()
    torch.save(network.state_dict(), tmp_path / "mobilenet_v3_small-047dcff4.pth")
    loaded = classifiers.load("mobilenet_v3_small")
    assert (loaded.view.size, loaded.view.resize) == (224, 256) and loaded.class_name(0) == "tench"


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("executed",))


def test_files_that_are_no_plain_weights_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cases = {"evil.pth": Evil(), "list.pth": [1, 2], "number.pth": {"a": 1}}
    for name, value in cases.items():
        torch.save(value, tmp_path / name)
    (tmp_path / "cut.pth").write_bytes((tmp_path / "list.pth").read_bytes()[:200])
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    for name in [*cases, "cut.pth", "cut.safetensors"]:
        with pytest.raises(WeightsError, match=name):
            classifiers.load("squeezenet1_1", weights=tmp_path / name)
    assert "executed" not in capfd.readouterr().out
    with pytest.raises(WeightsError, match=r"none\.pth does not exist; give the path"):
        classifiers.load("squeezenet1_1", weights=tmp_path / "none.pth")


def test_weights_of_another_network_say_what_differs(tmp_path: Path) -> None:
    torch.save(tiny().network.state_dict(), tmp_path / "tiny.pth")
    with pytest.raises(WeightsError, match=r"does not fit squeezenet1_1: 52 tensors missing .* 1\d unknown"):
        classifiers.load("squeezenet1_1", weights=tmp_path / "tiny.pth")
    with pytest.raises(WeightsError, match=r"does not fit efficientnet_lite0"):
        classifiers.load("efficientnet_lite0", weights=tmp_path / "tiny.pth")


def test_a_network_of_ones_own() -> None:
    classifier = tiny()
    assert classifier.classes == 5 and classifier.class_name(3) == "class 3"
    assert len(classifier.top(torch.rand(2, 3, 32, 32), 9)[0]) == 5
    assert classifier.provenance == Provenance("given by the caller") and classifier.provenance.sha256 is None
    wrong = Classifier(nn.Conv2d(3, 4, 3), name="conv")
    with pytest.raises(ClassifierError, match=r"conv: expected logits \(N, classes\), found \(1, 4, 30, 30\)"):
        wrong(torch.rand(1, 3, 32, 32))


def test_devices() -> None:
    assert classifiers.find_device("cpu") == torch.device("cpu")
    assert classifiers.find_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(ClassifierError, match="device 'gpu' is not on this machine; use auto or one of: cpu"):
        classifiers.find_device("gpu")


def test_what_is_no_network_or_no_normalisation_is_named() -> None:
    with pytest.raises(ClassifierError, match="network: expected a torch module, found function; a function becomes one"):
        Classifier(lambda x: x)  # type: ignore[arg-type]
    for mean, std in (((0.5,), (0.2, 0.2)), ((0.5,), (0.0,)), ((), ()), ("gray", (1.0,))):
        with pytest.raises(ClassifierError, match="mean and std: expected one number for each channel"):
            Classifier(tiny().network, mean=mean, std=std)  # type: ignore[arg-type]
    exported = torch.export.export(tiny().network.eval(), (torch.rand(2, 3, 32, 32),)).module()
    with pytest.raises(ClassifierError, match="cannot be put into evaluation mode"):
        Classifier(exported)
    assert Classifier(tiny().network, mean=torch.zeros(3), std=[1, 1, 1]).channels == 3  # type: ignore[arg-type]


def test_a_part_that_was_compiled_runs_as_it_was_written_meanwhile() -> None:
    plain, partly = tiny(), tiny()
    partly.network[3] = torch.compile(partly.network[3], backend="eager")
    whole = Classifier(tiny().network, view=View(32, 36))
    whole.network.compile(backend="eager")
    image = picture(0)[None]
    for method in ("grad_cam", "lrp", "integrated_gradients"):
        wanted = explainers.get(method).explain(plain, image).maps
        for other in (partly, whole):
            assert torch.allclose(explainers.get(method).explain(other, image).maps, wanted, atol=1e-6)
    assert whole.network._compiled_call_impl is not None


@pytest.mark.parametrize("end", ["softmax", "exp of log_softmax", "sigmoid and its opposite", "half, view"])
def test_probabilities_are_recognised_however_they_are_made(end: str) -> None:
    class Ends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny().network

        def forward(self, x: Tensor) -> Tensor:
            z = self.inner(x)
            if end == "softmax":
                return z.softmax(1)
            if end == "exp of log_softmax":
                return z.log_softmax(1).exp()
            if end == "half, view":
                return z.softmax(-1).half().float().view(-1, 5)
            p = z[:, :1].sigmoid()
            return torch.cat([p, 1 - p], 1)

    ends = Ends()
    with pytest.raises(ClassifierError, match=r'its outputs are probabilities .* output="probabilities"'):
        Classifier(ends, view=View(32, 36)).check()
    declared = Classifier(ends, view=View(32, 36), output="probabilities")
    declared.check()
    image = picture(0)[None]
    assert torch.allclose(declared.probabilities(image), ends.eval()(declared.normalise(image)), atol=1e-3)


def test_independent_labels_before_and_behind_their_sigmoid_are_the_same() -> None:
    class Squashed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny().network

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x).sigmoid()

    image = picture(0)[None]
    before = Classifier(tiny().network, view=View(32, 36), output="sigmoid")
    behind = Classifier(Squashed(), view=View(32, 36), output="sigmoid")
    with torch.no_grad():
        by_hand = tiny()(image).sigmoid()
    for one in (before, behind):
        assert torch.allclose(one.probabilities(image), by_hand, atol=1e-6)
    with pytest.raises(ClassifierError, match=r'come from a sigmoid.* output="sigmoid"'):
        Classifier(Squashed(), view=View(32, 36)).check()
    for method in ("grad_cam", "integrated_gradients"):
        maps = [explainers.get(method).explain(one, image, 2).maps for one in (before, behind)]
        assert torch.allclose(maps[0], maps[1], atol=1e-4)
    with pytest.raises(XaiError, match="relevance begins at logits; give the network without its softmax or sigmoid"):
        explainers.get("lrp").explain(behind, image)


@pytest.mark.parametrize("output", [None, "sigmoid", lambda o: o])
def test_another_network_put_in_its_place_is_the_one_that_is_explained(output: object) -> None:
    image, fresh = picture(0)[None], Classifier(tiny(1).network, view=View(32, 36), output=output)  # type: ignore[arg-type]
    one = Classifier(tiny(0).network, view=View(32, 36), output=output)  # type: ignore[arg-type]
    for method in ("grad_cam", "lrp", "integrated_gradients"):
        explainers.get(method).explain(one, image, 1)
    one.network = tiny(1).network
    assert torch.equal(one.probabilities(image), fresh.probabilities(image))
    for method in ("grad_cam", "lrp", "integrated_gradients"):
        maps = [explainers.get(method).explain(each, image, 1).maps for each in (one, fresh)]
        assert torch.equal(maps[0], maps[1])


class Answers(nn.Module):
    """A dictionary with what `made` makes of the logits."""

    def __init__(self, made: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.made = tiny().network, made

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"scores": self.made(self.inner(x))}


@pytest.mark.parametrize("meaning", ["probabilities", "sigmoid"])
def test_what_is_selected_of_an_answer_is_looked_at_too_and_may_be_declared(meaning: str) -> None:
    network = Answers({"probabilities": lambda z: z.softmax(1), "sigmoid": torch.sigmoid}[meaning])
    with pytest.raises(ClassifierError, match=f'output="{meaning}"'):
        Classifier(network, view=View(32, 36), output=lambda o: o["scores"]).check()
    pair = Classifier(network, view=View(32, 36), output=(lambda o: o["scores"], meaning))  # type: ignore[arg-type]
    plain = Classifier(tiny().network, view=View(32, 36), output="sigmoid" if meaning == "sigmoid" else None)
    image = picture(0)[None]
    assert torch.allclose(pair.probabilities(image), plain.probabilities(image), atol=1e-6)
    for method in ("grad_cam", "integrated_gradients"):
        maps = [explainers.get(method).explain(each, image, 2).maps for each in (pair, plain)]
        assert torch.allclose(maps[0], maps[1], atol=1e-4)


@pytest.mark.parametrize("output", ["softmax", (1, "sigmoid"), (len, "odds"), (len,), 3])
def test_an_output_that_says_nothing_is_named(output: object) -> None:
    with pytest.raises(ClassifierError, match=r"output: expected logits, probabilities, sigmoid, a callable, or a pair"):
        Classifier(tiny().network, output=output)  # type: ignore[arg-type]
