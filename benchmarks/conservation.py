"""What LRP keeps of the logit, by rule and network: ours, and zennit's and captum's as they come. The tables of the README.

    python benchmarks/conservation.py                         prints the tables by rule, and one JSON object as the last line
    python benchmarks/conservation.py benchmarks/README.md    renews them between that file's markers
    python benchmarks/conservation.py --families benchmarks/README.md    the table of `FAMILIES` instead

Error: |pixels + counted biases - logit| / |logit|, the larger of two images of 64 pixels, float64. Networks have random
weights and batch norms that do something; efficientnet_lite0 comes with its own. One network lives at a time.

`--families`: 68 convolutional networks and some transformers, one image each, by our default `epsilon_plus` and by
`epsilon`, both with an epsilon of 1e-9 (that of the default, 1e-6, absorbs up to 1e-5 of the logit), beside autoLRP 0.2
and LXT 2.1 (which wants transformers 4.52) where they are installed; neither is in the lock.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import timm
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
from xai_lib.relevance import RelevanceError, UnsupportedNetwork, ZBox

BEGIN, END = "<!-- conservation:begin -->", "<!-- conservation:end -->"
OF_FAMILIES = ("<!-- conservation-families:begin -->", "<!-- conservation-families:end -->")
NETWORKS = ("vgg16", "vgg19", "resnet18", "resnet50", "squeezenet1_1", "mobilenet_v2", "densenet121", "efficientnet_lite0")
BOX = (-2.5, 2.5)  #: bounds of the pixels; the inputs lie within
#: the 68 convolutional networks by family, `torchvision:` or of timm; `@`: the side of the image in place of 64
FAMILIES: dict[str, tuple[str, ...]] = {
    "VGG and AlexNet": ("torchvision:alexnet", "torchvision:vgg11", "torchvision:vgg16_bn"),
    "ResNet": ("torchvision:resnet18", "torchvision:resnet50", "torchvision:resnext50_32x4d", "resnet26t", "resnet18d",
               "resnetv2_50", "resnetv2_50x1_bit", "nf_resnet26", "tresnet_m", "res2net50_14w_8s"),
    "with attention to channels": ("legacy_seresnet18", "seresnext26d_32x4d", "skresnet18", "resnest14d", "ecaresnet26t",
                                   "gcresnext26ts"),
    "SqueezeNet, ShuffleNet": ("torchvision:squeezenet1_0", "torchvision:squeezenet1_1", "torchvision:shufflenet_v2_x0_5"),
    "Inception": ("torchvision:googlenet", "torchvision:inception_v3@96", "inception_v4@96", "inception_resnet_v2@96",
                  "inception_next_atto"),
    "Xception": ("legacy_xception", "xception41"),
    "DenseNet and other graphs": ("torchvision:densenet121", "rdnet_tiny", "dla34", "dpn48b", "hrnet_w18_small",
                                  "ese_vovnet19b_dw", "selecsls42", "hgnet_tiny", "hgnetv2_b0"),
    "CSP, DarkNet": ("cspresnet50", "darknet53", "cspdarknet53", "cs3darknet_focus_s"),
    "MobileNet": ("torchvision:mobilenet_v2", "torchvision:mobilenet_v3_small", "torchvision:mobilenet_v3_large",
                  "tf_mobilenetv3_small_minimal_100", "mobilenetv4_conv_small", "lcnet_050", "hardcorenas_a"),
    "MNASNet, FBNet, GhostNet": ("torchvision:mnasnet0_5", "semnasnet_075", "fbnetc_100", "ghostnet_050", "ghostnetv2_100",
                                 "mixnet_s", "rexnet_100"),
    "EfficientNet": ("torchvision:efficientnet_b0", "torchvision:efficientnet_v2_s", "tf_efficientnet_lite0", "tinynet_e"),
    "RegNet, NFNet": ("torchvision:regnet_x_400mf", "torchvision:regnet_y_400mf", "nfnet_l0"),
    "with branches in parallel": ("repvgg_a0", "mobileone_s0", "repghostnet_050"),
    "ConvNeXt and after": ("torchvision:convnext_tiny", "convnextv2_atto"),
    "transformers and mixtures (not among the 68)": (
        "vit_tiny_patch16_224", "torchvision:vit_b_16@224", "torchvision:swin_t", "swin_tiny_patch4_window7_224@224",
        "torchvision:swin_v2_t", "deit_tiny_patch16_224", "cait_xxs24_224", "mobilevit_xxs", "pvt_v2_b0", "poolformer_s12"),
}  # fmt: skip
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
    return randomised(made.double().to_empty(device="cpu").eval(), seed)


def randomised(made: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights that keep the size of activations behind a ReLU; norms and biases that do something."""
    rng = torch.Generator().manual_seed(seed)
    for module in made.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=rng)
            module.running_var.uniform_(0.5, 1.5, generator=rng)
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.LayerNorm | nn.GroupNorm) and module.bias is not None:
            module.weight.data.uniform_(0.5, 1.5, generator=rng)
            module.bias.data.normal_(0, 0.1, generator=rng)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            size = (6 / module.weight[0].numel()) ** 0.5
            module.weight.data.uniform_(-size, size, generator=rng)
            if module.bias is not None:
                module.bias.data.normal_(0, 0.05, generator=rng)
    for name, parameter in made.named_parameters():
        if name.rpartition(".")[2] in ("gamma", "gamma1", "gamma2", "layer_scale", "skipinit_gain"):  # near 0 untrained
            parameter.data.uniform_(0.3, 1, generator=rng)
    return made


def of_family(name: str) -> tuple[nn.Module, Tensor]:
    """A network of `FAMILIES`, random, and an image for it."""
    full, _, side = name.partition("@")
    size = int(side or 64)
    torch.manual_seed(0)
    source, _, short = full.rpartition(":")
    if source:
        options: dict[str, Any] = {"init_weights": False} if short in ("googlenet", "inception_v3") else {}
        made: nn.Module = getattr(torchvision.models, short)(weights=None, **options)
    else:
        try:
            made = timm.create_model(short, num_classes=100, img_size=size)
        except TypeError:  # takes images of any size
            made = timm.create_model(short, num_classes=100)
    return randomised(made.double().eval()), inputs(1, size)


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


def error_of(found: lrp.Conservation) -> float:
    return float(found.error.abs().max())


def of_autolrp(model: nn.Module, x: Tensor, target: int) -> Cell:
    """The error of autoLRP with its own default rules (epsilon in layers, proportional elsewhere); biases are not counted."""
    try:
        import autolrp
    except ImportError:
        return "absent"
    try:
        wrapped = autolrp.tensor(x.clone())
        logits = model(wrapped)
        logits[0, target].lrp()
        found = wrapped.relevance.detach().as_subclass(Tensor)
        return abs(float((found.sum() - logits[0, target].detach()) / logits[0, target].detach()))
    except Exception as error:  # whatever it raises is what the table says
        return type(error).__name__


def of_lxt(name: str, target: int) -> Cell:
    """The error of LXT, which knows torchvision's vision transformers, in a process of its own: what it patches stays so."""
    if importlib.util.find_spec("lxt") is None:
        return "absent"
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_of_lxt, name, target).result()


def _of_lxt(name: str, target: int) -> Cell:
    """Input times gradient of the patched network."""
    from lxt.efficient import monkey_patch
    from torchvision.models import vision_transformer

    model, x = of_family(name)
    if not isinstance(model, vision_transformer.VisionTransformer):
        return "no rules"
    try:
        monkey_patch(vision_transformer, verbose=False)
        x = x.clone().requires_grad_()
        logit = model(x)[0, target]
        logit.backward()
        assert x.grad is not None
        return abs(float(((x * x.grad).sum() - logit) / logit))
    except Exception as error:
        return type(error).__name__


def family_measured(name: str) -> dict[str, Cell]:
    """The errors of a network of `FAMILIES` by what is compared, or why there is none."""
    model, x = of_family(name)
    found: dict[str, Cell] = {}
    for rule, composite in {"epsilon_plus": lrp.epsilon_plus(epsilon=1e-9), "epsilon": lrp.epsilon(1e-9)}.items():
        try:
            found[rule] = error_of(lrp.check_conservation(model, composite, x))
        except RelevanceError as error:
            found[rule] = f"refused: {error}"
    with torch.no_grad():
        target = int(model(x).argmax())
    # HiLRP is named on the registry's lists, but nothing of it could be installed in November 2026
    return found | {"autoLRP": of_autolrp(model, x, target), "LXT": of_lxt(name, target), "HiLRP": "absent"}


# ---------------------------------------------------------------------------------------------------------------------
# The tables


def family_table(found: dict[str, dict[str, Cell]]) -> str:
    """The networks of `FAMILIES`, how many of the 68 conserve to 1e-6, and reasons."""
    columns = ("epsilon_plus", "epsilon", "autoLRP", "LXT", "HiLRP")
    lines = [f"| family | network | {' | '.join(columns)} |", "|---|---|" + "---|" * len(columns)]
    notes, best = [], dict.fromkeys(columns, 0)
    for family, names in FAMILIES.items():
        for i, name in enumerate(n for n in names if n in found):
            cells = found[name]
            for column in columns:
                value = cells[column]
                best[column] += not family.startswith("transformers") and not isinstance(value, str) and value <= 1e-6
                if isinstance(value, str) and value.startswith("refused: "):
                    notes.append(f"- {name}, {column}: {value}")
            shown = [number("refused" if isinstance(v := cells[c], str) and v.startswith("refused") else v) for c in columns]
            lines.append(f"| {family if i == 0 else ''} | {name} | {' | '.join(shown)} |")
    many = sum(n in found for f, names in FAMILIES.items() for n in names if not f.startswith("transformers"))
    counts = " | ".join(f"{best[c]} of {many}" for c in columns)
    lines.insert(2, f"| | **error up to 1e-6** | {counts} |")
    return "\n".join([*lines, *(["", *notes] if notes else [])])



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


def renew(text: str, table: str, marks: tuple[str, str] = (BEGIN, END)) -> str:
    """`text` with the tables between its markers."""
    before, begin, rest = text.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not begin or not end:
        raise SystemExit(f"expected the lines {marks[0]} and {marks[1]}, found {'only the first' if begin else 'neither'}")
    return f"{before}{begin}\n{table}\n{end}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="renew the tables in these")
    parser.add_argument("--networks", nargs="+", help="these alone (default: all of the table)")
    parser.add_argument("--families", action="store_true", help="the table of networks by family")
    parser.add_argument("--kept", type=Path, help="a JSON file to go on from, written after each network")
    chosen = parser.parse_args()
    marks, table_of, measure, names = (BEGIN, END), tables, measured, NETWORKS
    if chosen.families:
        marks, table_of, measure = OF_FAMILIES, family_table, family_measured
        names = tuple(n for family in FAMILIES.values() for n in family)
    for file in chosen.files:
        renew(file.read_text(encoding="utf-8"), "", marks)  # markers are there, before minutes are spent
    torch.set_num_threads(1)  # many small layers: on a machine that is busy with something else, more threads wait
    warnings.simplefilter("ignore")
    kept = chosen.kept
    found = json.loads(kept.read_text(encoding="utf-8")) if kept and kept.exists() else {}
    for name in chosen.networks or names:
        if name in found:
            continue
        began = time.perf_counter()
        found[name] = measure(name)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        if kept:
            kept.write_text(json.dumps(found), encoding="utf-8")
        gc.collect()
    table = table_of(found)
    for file in chosen.files:
        file.write_text(renew(file.read_text(encoding="utf-8"), table, marks), encoding="utf-8")
    if not chosen.files:
        print(table)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
