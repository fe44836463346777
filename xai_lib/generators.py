"""BigGAN generators: built, kept, loaded, and made fast for search.

Brock, Donahue, Simonyan: "Large scale GAN training for high fidelity natural image synthesis", ICLR 2019. The architecture
(BigGAN-deep, generator alone) is that of the package pytorch-pretrained-biggan, and so is the format: a folder with
`config.json` and `pytorch_model.bin`.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from xai_lib.errors import XaiError, nearest, whole
from xai_lib.weights import EMBEDDED, read_state_dict, weights_home

if TYPE_CHECKING:
    from pytorch_pretrained_biggan import BigGAN, BigGANConfig

CONFIG, WEIGHTS = "config.json", "pytorch_model.bin"
REGISTRY = Path(__file__).resolve().parents[1] / "data" / "registry" / "biggan.csv"


class GeneratorError(XaiError):
    """A generator that is unknown, missing or damaged, or input that it cannot take."""


class Generator(nn.Module):
    """Noise and class vector go in, pictures in 0..1 come out.

    `z`: `(N, z_dim)`. `class_vector`: `(N, classes)`, one-hot or any mixture. `truncation`: above 0, at most 1; it picks the
    stored statistics of batch norm, and does not cut z. Result: `(N, 3, size, size)`, the package's tanh brought to 0..1.

    The same numbers as the package's model in evaluation mode, up to rounding, in less time: spectral norms are divided out once
    (nothing drifts, whatever the mode), the arithmetic of a conditional batch norm is one multiplication and one addition, and
    of the last convolution only the three channels that are seen are computed. Parameters require no gradient; z may.
    """

    def __init__(self, model: BigGAN, name: str = "generator", files: Sequence[Path] = ()) -> None:
        super().__init__()
        self.model = _folded(model)
        self.config: BigGANConfig = model.config
        self.name, self.files = name, list(files)
        self.classes, self.z_dim = int(self.config.num_classes), int(self.config.z_dim)
        self.size = 4 * 2 ** sum(bool(layer[0]) for layer in self.config.layers)
        self.eval().requires_grad_(False)

    def forward(self, z: Tensor, class_vector: Tensor, truncation: float = 1.0) -> Tensor:
        """Pictures of these noises and classes; raises `GeneratorError` for other shapes, integers, and other truncations."""
        if z.ndim != 2 or z.shape[1] != self.z_dim or class_vector.shape != (len(z), self.classes):
            raise GeneratorError(
                f"{self.name}: expected z (N, {self.z_dim}) and class_vector (N, {self.classes}), found {tuple(z.shape)} and "
                f"{tuple(class_vector.shape)}"
            )
        if not (z.is_floating_point() and class_vector.is_floating_point()):
            raise GeneratorError(f"{self.name}: expected z and class_vector as floats, found {z.dtype} and {class_vector.dtype}")
        _check_truncation(truncation)
        made: Tensor = self.model(z, class_vector, truncation)
        return (made + 1) / 2

    def __repr__(self) -> str:
        millions = sum(p.numel() for p in self.parameters()) / 1e6
        shape = f"{self.size} px, z of {self.z_dim}, {self.classes} classes"
        return f"Generator({self.name!r}, {shape}, {millions:.1f} million numbers)"


class _FusedNorm(nn.Module):
    """Conditional batch norm of the package with stored statistics, as one scale and one shift a channel."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.scale, self.offset = norm.get_submodule("scale"), norm.get_submodule("offset")
        self.means, self.variances = norm.get_buffer("running_means"), norm.get_buffer("running_vars")
        self.eps, self.step = float(getattr(norm, "eps")), float(getattr(norm, "step_size"))  # noqa: B009

    def forward(self, x: Tensor, truncation: float, condition: Tensor) -> Tensor:
        part, row = math.modf(truncation / self.step)  # between rows as the package does it, which swaps the weights
        at = int(row)
        mean, variance = self.means[at], self.variances[at]
        if part:
            mean, variance = (s[at] * part + s[at + 1] * (1 - part) for s in (self.means, self.variances))
        scale = (1 + self.scale(condition)) / torch.sqrt(variance + self.eps)
        shift = self.offset(condition) - mean * scale
        return torch.addcmul(shift[..., None, None], x, scale[..., None, None])


def _folded(model: BigGAN) -> nn.Module:
    import copy

    twin: Any = copy.deepcopy(model).eval()
    for module in twin.modules():
        if hasattr(module, "weight_orig"):
            with torch.no_grad():
                nn.utils.remove_spectral_norm(module)
    for block in twin.generator.layers:
        for name in [n for n, _ in block.named_children() if n.startswith("bn_")]:
            setattr(block, name, _FusedNorm(getattr(block, name)))
    last = twin.generator.conv_to_rgb
    seen = nn.Conv2d(last.in_channels, 3, 3, padding=1)
    seen.weight, seen.bias = nn.Parameter(last.weight.detach()[:3].clone()), nn.Parameter(last.bias.detach()[:3].clone())
    twin.generator.conv_to_rgb = seen
    twin.to(memory_format=torch.channels_last)  # a fifth less time on a processor
    return twin


def noise(count: int, z_dim: int, seed: int, truncation: float = 1.0) -> Tensor:
    """`(count, z_dim)` float32: a standard normal cut to [-2, 2], times `truncation`; row k is the same for any `count`.

    As the package's own sampler, but from a generator of its own. Raises `GeneratorError` for counts below 1, seeds below 0, and
    a truncation outside of 0..1.
    """
    from scipy.special import ndtr, ndtri

    whole("count", count, 1, GeneratorError)
    whole("z_dim", z_dim, 1, GeneratorError)
    whole("seed", seed, 0, GeneratorError)
    _check_truncation(truncation)
    uniform = np.random.default_rng(seed).random((count, z_dim))
    return torch.from_numpy(truncation * ndtri(ndtr(-2) + uniform * (ndtr(2) - ndtr(-2)))).float()


def _check_truncation(truncation: float) -> None:
    if not 0 < truncation <= 1:
        raise GeneratorError(f"truncation: expected above 0 and at most 1, found {truncation!r}")


def small_config(**changes: Any) -> BigGANConfig:
    """The configuration for critters: 64 px, z of 64, 8 classes, four blocks that each double the size, no attention."""
    from pytorch_pretrained_biggan import BigGANConfig

    layers = [[True, 16, 8], [True, 8, 4], [True, 4, 2], [True, 2, 1]]
    return BigGANConfig(**{
        "output_dim": 64, "z_dim": 64, "class_embed_dim": 64, "channel_width": 24, "num_classes": 8, "layers": layers,
        "attention_layer_position": len(layers) + 1, **changes,
    })  # fmt: skip


def build(config: BigGANConfig, seed: int = 0) -> BigGAN:
    """The package's model with random weights (orthogonal, as in the paper), ready to use.

    The package leaves the last batch norm uninitialised, and the vectors of spectral norm random, which gives NaN: both are set
    here. Stored statistics of batch norm are mean 0 and variance 1.
    """
    from pytorch_pretrained_biggan import BigGAN

    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(seed)
        model = BigGAN(config)
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.orthogonal_(getattr(module, "weight_orig", module.weight))
                if module.bias is not None:
                    module.bias.zero_()
        model.generator.bn.weight.fill_(1)
        model.generator.bn.bias.zero_()
        settle(model)
    return model.eval()


@torch.no_grad()
def settle(model: BigGAN, times: int = 20) -> None:
    """Bring the vectors of spectral norm to where the weights are: so many steps of power iteration."""
    was = model.training
    model.train()
    config = model.config
    for _ in range(times):
        model(torch.zeros(1, config.z_dim), torch.eye(config.num_classes)[:1], 1.0)
    model.train(was)


def save(model: BigGAN, folder: str | Path, half: bool = True) -> list[Path]:
    """Keep a model in the package's format, by default in half precision, which the package reads as well."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(model.config.to_dict(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    state = {k: v.detach().cpu() for k, v in model.state_dict().items()}
    beside = folder / f".{WEIGHTS}.{os.getpid()}"
    torch.save({k: v.half() if half and v.is_floating_point() else v for k, v in state.items()}, beside)
    beside.replace(folder / WEIGHTS)
    return [folder / CONFIG, folder / WEIGHTS]


def load_generator(name_or_path: str | Path, download: bool = False) -> Generator:
    """A generator by name, or from a folder with `config.json` and `pytorch_model.bin`.

    `critters`: the small one of data/embedded. `biggan-deep-128`, `-256`, `-512`: looked for in `$XAI_WEIGHTS_HOME/NAME`, then in
    pooch's cache, and fetched only when `download` is True. Raises `GeneratorError`, which says which file is missing and where
    to put it.
    """
    name = str(name_or_path)
    known = _registry()
    if name == "critters":
        folder, hint = EMBEDDED / "critters_biggan", "restore it from the repository, or train it: make embedded ARGS=generator"
    elif name in known:
        folder = _folder_of(name, download)
        hint = f"put {CONFIG} and {WEIGHTS} into that folder or into $XAI_WEIGHTS_HOME/{name}, or pass download=True"
    elif Path(name).is_dir():
        folder, hint = Path(name), f"the folder needs both, {CONFIG} and {WEIGHTS}"
    else:
        raise GeneratorError(f"no generator or folder is called {name!r}; {nearest(name, ['critters', *known])}")
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise GeneratorError(f"{name}: {folder / file} is missing; {hint}")
    return Generator(_read(folder), Path(name).name, [folder / CONFIG, folder / WEIGHTS])


def _read(folder: Path) -> BigGAN:
    from pytorch_pretrained_biggan import BigGAN, BigGANConfig

    try:
        config = BigGANConfig.from_json_file(str(folder / CONFIG))
        with torch.random.fork_rng([]):
            model = BigGAN(config)
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
        raise GeneratorError(f"{folder / CONFIG} does not describe a generator ({error}); fetch it anew") from None
    state, wanted = read_state_dict(folder / WEIGHTS), model.state_dict()
    wrong = sorted(set(state) ^ set(wanted)) + [k for k in wanted if k in state and state[k].shape != wanted[k].shape]
    if wrong:  # the package skips such tensors without a word
        some = ", ".join(wrong[:3])
        raise GeneratorError(f"{folder / WEIGHTS} does not fit {CONFIG} beside it: {len(wrong)} tensors, as {some}")
    model.load_state_dict(state)
    return model.eval()


def _registry() -> dict[str, list[dict[str, str]]]:
    rows: dict[str, list[dict[str, str]]] = {}
    for row in csv.DictReader(REGISTRY.read_text(encoding="utf-8").splitlines()):
        rows.setdefault(row["name"], []).append(row)
    return rows


def _folder_of(name: str, download: bool) -> Path:
    """Where that generator lies; fetched into pooch's cache if wanted, with the checksum of the first download kept."""
    import pooch

    home = weights_home()
    if home and all((home / name / file).is_file() for file in (CONFIG, WEIGHTS)):
        return home / name
    folder = Path(pooch.os_cache("xai-lib")) / "biggan" / name
    if download:
        for row in _registry()[name]:
            sums = folder / f"{row['file']}.sha256"
            # Its publisher names no checksum and we could not fetch it: the first download is taken as it comes.
            known = row["sha256"] or (sums.read_text(encoding="utf-8").strip() if sums.is_file() else None)
            try:
                pooch.retrieve(row["url"], known, row["file"], folder)
            except (OSError, ValueError) as error:
                where = f"put the file at {folder / row['file']} by hand"
                raise GeneratorError(f"{name}: could not fetch {row['url']} ({error}); {where}") from None
            sums.write_text(pooch.file_hash(str(folder / row["file"])), encoding="utf-8")
    return folder
