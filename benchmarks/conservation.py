"""What LRP keeps of the logit, by rule and network: ours, and zennit's and captum's as they come. The table of the README.

    python benchmarks/conservation.py              prints the tables, and one JSON object as the last line
    python benchmarks/conservation.py README.md    renews them between that file's markers

Error: |pixels + counted biases - logit| / |logit|, the larger of two images of 64 pixels, float64. Networks have random
weights and batch norms that do something; efficientnet_lite0 comes with its own. One network lives at a time.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
import zennit.composites
import zennit.core
import zennit.rules
from torch import Tensor, nn
from torch.nn import functional as F
from zennit.canonizers import Canonizer, SequentialMergeBatchNorm
from zennit.torchvision import ResNetCanonizer

from xai_lib import classifiers
from xai_lib.explainers import lrp, rap
from xai_lib.relevance import UnsupportedNetwork, ZBox

BEGIN, END = "<!-- conservation:begin -->", "<!-- conservation:end -->"
NETWORKS = ("vgg16", "vgg19", "resnet18", "resnet50", "squeezenet1_1", "mobilenet_v2", "densenet121", "efficientnet_lite0")
BOX = (-2.5, 2.5)  #: bounds of the pixels; the inputs lie within
SAME = 0.99  #: cosine similarity above which two maps are called the same
Cell = float | str
"""An error, or in words why there is none."""


class Row(NamedTuple):
    """A rule: ours, and the composite of zennit that a user would take for it (None: there is none)."""

    ours: lrp.Composite | None  #: None: RAP
    zennit: Callable[[list[Canonizer]], zennit.core.Composite] | None


def everywhere(canonizers: list[Canonizer]) -> zennit.core.Composite:
    """zennit's epsilon in all layers: it has the rule, but no composite of that name."""
    layers = [*zennit.composites.layer_map_base(), (zennit.types.Linear, zennit.rules.Epsilon())]
    return zennit.composites.LayerMapComposite(layers, canonizers=canonizers)


def theirs(name: str, **arguments: Any) -> Callable[[list[Canonizer]], zennit.core.Composite]:
    return lambda canonizers: getattr(zennit.composites, name)(canonizers=canonizers, **arguments)


BOUNDS = {"low": torch.full((1, 3, 1, 1), BOX[0]).double(), "high": torch.full((1, 3, 1, 1), BOX[1]).double()}
ROWS: dict[str, Row] = {
    "ε, keep": Row(lrp.epsilon(), everywhere),
    "z⁺, keep": Row(lrp.alpha_beta(1.0), theirs("EpsilonPlus")),
    "z⁺, ignore": Row(lrp.alpha_beta(1.0, bias="ignore"), theirs("EpsilonPlus", zero_params="bias")),
    "z⁺, spread": Row(lrp.alpha_beta(1.0, bias="spread"), None),
    "α2β1, keep": Row(lrp.alpha_beta(2.0), theirs("EpsilonAlpha2Beta1")),
    "α2β1, ignore": Row(lrp.alpha_beta(2.0, bias="ignore"), theirs("EpsilonAlpha2Beta1", zero_params="bias")),
    "α2β1, spread": Row(lrp.alpha_beta(2.0, bias="spread"), None),
    "γ and box, keep": Row(lrp.epsilon_gamma_box(*BOX, epsilon=1e-9), theirs("EpsilonGammaBox", **BOUNDS)),
    "RAP": Row(None, None),
}


def network(name: str, seed: int = 0) -> nn.Module:
    """A network in float64; the weights of all but efficientnet_lite0 are random, so that the table can be made anywhere."""
    if name == "efficientnet_lite0":
        return classifiers.load(name).network.double()
    with torch.device("meta"):
        made: nn.Module = getattr(torchvision.models, name)(weights=None)
    made, rng = made.double().to_empty(device="cpu").eval(), torch.Generator().manual_seed(seed)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=rng)
            module.running_var.uniform_(0.5, 1.5, generator=rng)
            module.weight.data.uniform_(0.5, 1.5, generator=rng)
            module.bias.data.normal_(0, 0.1, generator=rng)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            size = (6 / module.weight[0].numel()) ** 0.5  # keeps the size of activations behind a ReLU
            module.weight.data.uniform_(-size, size, generator=rng)
            if module.bias is not None:
                module.bias.data.normal_(0, 0.05, generator=rng)
    return made


def inputs(n: int = 2, size: int = 64) -> Tensor:
    """Smooth random pictures within `BOX`."""
    rough = torch.randn(n, 3, size // 6, size // 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return F.interpolate(rough, size=size, mode="bicubic").clamp(*BOX)


def canonizers(name: str) -> list[Canonizer]:
    """What zennit's manual recommends for a network of torchvision."""
    if name.startswith("vgg"):
        return []
    return [ResNetCanonizer() if name.startswith("resnet") else SequentialMergeBatchNorm()]


def of_rap(x: Tensor) -> lrp.Composite:
    """RAP's rules as a composite, as `rap.propagate` makes it."""
    box = ZBox(x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True))
    return lrp.Composite("rap", rap.Criterion(), rap.Criterion(of_dense=True), box, rap.Start())


def lost(pixels: Tensor, logit: Tensor) -> float:
    """The larger error of the images, from their maps `(N, C, H, W)`."""
    return float(((pixels.flatten(1).sum(1) - logit) / logit).abs().max())


def ours(model: nn.Module, row: Row, x: Tensor) -> Cell:
    """Our error, or that the network is refused."""
    try:
        if row.ours is not None:
            return float(lrp.check_conservation(model, row.ours, x).error.abs().max())
        with torch.no_grad():
            logit, wanted = model(x).max(1)
        return lost(rap.relevance(model, x, wanted), logit)
    except UnsupportedNetwork:
        return "refused"


def of_zennit(name: str, model: nn.Module, row: Row, x: Tensor) -> tuple[Cell, nn.Module]:
    """zennit's error, or the class of its exception; and the network, built anew if zennit left it changed."""
    if row.zennit is None:
        return "", model
    with torch.no_grad():
        before = model(x)
    found: Cell
    try:
        found = float(lrp.check_conservation(model, row.zennit(canonizers(name)), x).error.abs().max())
    except Exception as error:  # whatever it raises is what the table says
        found = type(error).__name__
    try:
        with torch.no_grad():
            same = torch.equal(model(x), before)
    except Exception:
        same = False
    return found, model if same else network(name)


def of_captum(model: nn.Module, x: Tensor) -> Cell:
    """The error of captum's LRP with its default rules, or the class of its exception. The network is not to be used again."""
    from captum.attr import LRP

    with torch.no_grad():
        logit, wanted = model(x).max(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return lost(LRP(model).attribute(x, target=wanted).detach(), logit)
    except Exception as error:
        return type(error).__name__


def measured(name: str) -> dict[str, Any]:
    """All cells of a network: `{rule: {"ours", "zennit", "convergence"}, "captum": ...}`."""
    model, x = network(name), inputs()
    found: dict[str, Any] = {}
    for rule, row in ROWS.items():
        mine = ours(model, row, x)
        convergence = [] if mine == "refused" else list(lrp.convergence(model, row.ours or of_rap(x), x))
        other, model = of_zennit(name, model, row, x)
        found[rule] = {"ours": mine, "zennit": other, "convergence": convergence}
    return found | {"captum": of_captum(model, x)}


# ---------------------------------------------------------------------------------------------------------------------
# The tables


def number(value: Cell) -> str:
    """`3e-16`, `0.12`, `7600`; words in italics."""
    if isinstance(value, str):
        return f"*{value}*" if value else "–"
    if value == 0 or not 0.001 <= value < 1e4:
        mantissa, _, exponent = f"{value:.0e}".partition("e")
        return f"{mantissa}e{int(exponent)}" if value and exponent else mantissa
    return f"{value:.2g}" if value < 100 else f"{value:.0f}"


def convergence_cell(values: list[float]) -> str:
    if not values:
        return "–"
    text = " / ".join(f"{v:.2f}" for v in values)
    return f"**{text}**" if min(values) > SAME else text


def tables(found: dict[str, dict[str, Any]]) -> str:
    """Errors by rule, package and network; then the convergence of our rules."""
    names = list(found)
    head = f"{' | '.join(names)} |\n|---|---|{'---|' * len(names)}"
    lines = [f"| rule, bias | error of | {head}"]
    for rule in ROWS:
        lines.append(f"| {rule} | ours | {' | '.join(number(found[n][rule]['ours']) for n in names)} |")
        if ROWS[rule].zennit is not None:
            lines.append(f"| | zennit | {' | '.join(number(found[n][rule]['zennit']) for n in names)} |")
    lines.append(f"| ε | captum | {' | '.join(number(found[n]['captum']) for n in names)} |")
    lines += ["", f"| rule, bias | ignores later layers on | {head}"]
    for rule in ROWS:
        values = [found[n][rule]["convergence"] for n in names]
        same = sum(bool(v) and min(v) > SAME for v in values)
        where = f"{same} of {sum(map(bool, values))}"
        lines.append(f"| {rule} | {where} | {' | '.join(map(convergence_cell, values))} |")
    return "\n".join(lines)


def renew(text: str, table: str) -> str:
    """`text` with the tables between its markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"expected the lines {BEGIN} and {END}, found {'only the first' if begin else 'neither'}")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="renew the tables in these")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    chosen = parser.parse_args()
    for file in chosen.files:
        renew(file.read_text(encoding="utf-8"), "")  # markers are there, before minutes are spent
    torch.set_num_threads(1)  # many small layers: on a machine that is busy with something else, more threads wait
    found = {}
    for name in chosen.networks:
        began = time.perf_counter()
        found[name] = measured(name)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
        gc.collect()
    table = tables(found)
    for file in chosen.files:
        file.write_text(renew(file.read_text(encoding="utf-8"), table), encoding="utf-8")
    if not chosen.files:
        print(table)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
