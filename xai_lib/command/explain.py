"""`xai explain`: the three views of a user's own photograph, without a notebook. Everything heavy is imported when it runs."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xai_lib.errors import XaiError, nearest
from xai_lib.runs.command import app

if TYPE_CHECKING:
    from xai_lib.classifiers import Classifier
    from xai_lib.framework import Framework, Views
    from xai_lib.images import Images

HELP = """Explain your own image: what a network sees in it, and three views of why.

Grad-CAM shows the region, LRP the pixels, SHAP the signed influence of an early layer; below each map are the proportion of
positive relevance in the central half of the image (50% if it were even), the proportion in the strongest tenth of the pixels
(10%), and the balance of signs. Any method of the package can be shown with them or instead: --method, repeated.

\b
Examples:
  xai explain cat.jpg                            writes cat-explained.png
  xai explain cat.jpg --target "tabby"           why this class?
  xai explain cat.jpg --method lime --method rap other methods
  xai explain cat.jpg --network squeezenet1_1 --samples 20
  xai explain cat.jpg --layer blocks.4           Grad-CAM and SHAP at another layer
  xai explain cat.jpg --network my/model.py:build   a network of your own; this executes my/model.py
  xai explain holiday/ dog.png --out explained   an image each, and table.csv

A class is asked for by its name as it is written (Cardigan is a dog, cardigan a garment), by its name in any case where that is
one class, or by its number. FILE.py:NAME and MODULE:NAME are a function or class that is called without arguments, or an object:
a torch.nn.Module, or an xai_lib.classifiers.Classifier, which also says mean, std, view and class names.

One image gives one file; several, or a folder, a folder with a file each and table.csv. A file that is no image is named and left
out, and the exit code is 1. Nothing is downloaded."""
EXIT_CODES = "Exit codes: 0 all explained; 1 a photograph was left out, or no method could explain; 2 unknown name, no file."

SHAP_SAMPLES = 50  # of this command: some 20 seconds; its own default of 200, the paper's, takes four times as long
SHAP_PLACES = ("auto", "pixels", "stride2", "stride4")  # that its layer may be called besides


class ExplainError(XaiError):
    """A question to `xai explain` that cannot be answered: no such class, no such file, nothing to explain."""


@dataclass
class Outcome:
    """What was written, and what was left out and why."""

    written: list[Path] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    explained: bool = False


@app.command(help=HELP, epilog=EXIT_CODES)
def explain(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", show_default=False, help="Files or folders.")],
    network: Annotated[
        str, typer.Option(help="A network of torchvision, timm:NAME, a .safetensors file of xai_lib.training, or FILE.py:NAME.")
    ] = "efficientnet_lite0",
    method: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", show_default="grad_cam, lrp_composite, shap", help="A method; may be repeated."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="CLASS", show_default="the predicted one", help="Class to ask about, by name or number."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", show_default="PHOTO-explained.png", help="Picture (.png), or folder for several."),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(min=1, show_default="SHAP 50, others their own", help="Of methods that sample; SHAP's paper takes 200."),
    ] = None,
    layer: Annotated[
        str | None, typer.Option(metavar="NAME", show_default="each method's own", help="Of methods that look at a layer.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of methods that draw random numbers.")] = 0,
) -> None:
    outcome = run(photos, network, method or [], target, out, samples, seed, layer)
    for remark in outcome.remarks:
        typer.echo(f"xai: {remark}", err=True)
    for path in outcome.written:
        typer.echo(path)
    for name, reason in outcome.left_out.items():
        typer.echo(f"xai: left out {name}: {reason}", err=True)
    for name, reason in outcome.refusals.items():
        typer.echo(f"xai: {name} cannot explain {network}: {reason}", err=True)
    if outcome.left_out or not outcome.explained:
        raise typer.Exit(1)


def run(
    paths: list[Path], network: str, methods: list[str], target: str | None, out: Path | None, samples: int | None, seed: int,
    layer: str | None = None,
) -> Outcome:  # fmt: skip
    """Explain the images and write figures and, for several, a table. Raises `XaiError`s for what cannot be asked.

    `samples`, `layer`: of the methods that have such a setting; None for the default of each.
    """
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise ExplainError(f"no such file or folder: {', '.join(missing)} (paths start from {Path.cwd()})")
    several = len(paths) > 1 or paths[0].is_dir()
    destination = out or (Path("explained") if several else Path(f"{paths[0].stem}-explained.png"))
    _check_destination(destination, several)

    from xai_lib import images

    found = images.load([str(path) for path in paths])
    outcome, tables = Outcome(), []
    classifier = _load(network, outcome.remarks)
    framework = _framework(classifier, methods, seed)
    _adjust(framework, samples, layer, outcome.remarks)
    wanted = None if target is None else find_class(classifier, target)
    for row, name in enumerate(found.names):
        image = _read(found, row, classifier, outcome)
        if image is None:
            continue
        views = _ask(framework, image, wanted, name, hush=not sys.stderr.isatty())
        outcome.refusals |= views.refusals
        outcome.explained |= bool(views.explanations)
        outcome.written.append(_write(views, destination / f"{name}.png" if several else destination))
        tables.append(views.table())
    if several and tables:
        import pandas as pd

        pd.concat(tables).to_csv(destination / "table.csv", index=False)
        outcome.written.append(destination / "table.csv")
    return outcome


def _check_destination(destination: Path, several: bool) -> None:
    if several and destination.exists() and not destination.is_dir():
        raise ExplainError(f"--out {destination} is a file; several photographs need a folder")
    if not several and destination.is_dir():
        raise ExplainError(f"--out {destination} is a folder; name the picture of one photograph, such as {destination}/a.png")
    if not several and destination.suffix.lower() != ".png":
        raise ExplainError(f"--out {destination}: expected a name that ends in .png")


def _load(network: str, remarks: list[str]) -> Classifier:
    """The network, tried out; what was assumed of it is added to `remarks`."""
    from xai_lib.command import own_network

    classifier = own_network.load(network, remarks) if own_network.is_own(network) else _registered(network)
    if classifier.channels not in (1, 3):
        raise ExplainError(
            f"{classifier.name} takes images of {classifier.channels} channels; xai explain gives 3, or 1 by luminance. Call the "
            "explainers in Python, on tensors (N, channels, H, W) in 0..1"
        )
    classifier.check()
    return classifier


def _registered(network: str) -> Classifier:
    from xai_lib import classifiers
    from xai_lib.weights import WeightsError

    try:
        return classifiers.load(network)
    except WeightsError as error:
        ready = "efficientnet_lite0 needs none"
        raise ExplainError(
            f"{error}\n  xai explain downloads nothing. Fetch them once in Python, "
            f"xai_lib.classifiers.load({network!r}, download=True), or take another --network: {ready}"
        ) from None


def _framework(classifier: Classifier, methods: list[str], seed: int) -> Framework:
    from xai_lib.framework import METHODS, Framework

    return Framework(classifier, methods=[*dict.fromkeys(methods)] or METHODS, seed=seed)


def _adjust(framework: Framework, samples: int | None, layer: str | None, remarks: list[str]) -> None:
    """Set samples and layer of the methods that have such a setting. Raises `ExplainError` where none has a layer."""
    settings: dict[str, Any] = framework.settings  # of each method its own kind
    sampling, looking = (
        [m for m, own in settings.items() if name in {f.name for f in fields(own)}] for name in ("samples", "layer")
    )
    if samples is not None and not sampling:
        remarks.append(f"--samples {samples} has no effect: none of the methods takes samples")
    for method in sampling if samples is not None else {"shap"} & set(sampling):
        settings[method] = replace(settings[method], samples=samples or SHAP_SAMPLES)
    if layer is None:
        return
    if not looking:
        raise ExplainError(f"--layer {layer}: none of the methods looks at one layer: {', '.join(framework.methods)}")
    if not (layer in SHAP_PLACES and looking == ["shap"]):
        framework.classifier.layer(layer)  # an unknown one is an error with the nearest names
    for method in looking:
        settings[method] = replace(settings[method], layer=layer)


def find_class(classifier: Classifier, wanted: str) -> int:
    """The class of a network by its name or number.

    A name as it is written wins; then a number; then a name in any case, where it is one class. Raises `ExplainError` where
    several classes have the name, with all of them, and where none has, with the nearest names.
    """
    names = [classifier.class_name(i) for i in range(classifier.classes)]
    exact = [i for i, name in enumerate(names) if name == wanted]
    if not exact and wanted.lstrip("-").isdecimal():
        if 0 <= int(wanted) < len(names):
            return int(wanted)
        raise ExplainError(f"--target {wanted}: {classifier.name} has the classes 0 to {len(names) - 1}")
    lower = wanted.casefold()
    found = exact or [i for i, name in enumerate(names) if name.casefold() == lower]
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(f"{names[i]} ({i})" for i in found)
        how = "give its number" if exact else "spell it as one of them, or give its number"
        raise ExplainError(f"--target {wanted!r}: {classifier.name} has {len(found)} such classes: {listed}; {how}")
    inside = [f"{name} ({i})" for i, name in enumerate(names) if lower and lower in name.casefold()]
    hint = f"names with it: {', '.join(inside[:8])}" if inside else _nearest(wanted, names)
    raise ExplainError(f"--target {wanted!r}: {classifier.name} has no class of that name; {hint}")


def _nearest(wanted: str, names: list[str]) -> str:
    """The hint of `errors.nearest`, whatever the case, with the names as they are written."""
    written: dict[str, str] = {}
    for name in names:
        written.setdefault(name.lower(), name)
    kind, _, near = nearest(wanted, list(written)).partition(": ")
    return f"{kind}: {', '.join(written.get(name, name) for name in near.split(', '))}"


def _read(found: Images, row: int, classifier: Classifier, outcome: Outcome) -> Any:
    from xai_lib.images import ImageError

    try:
        return classifier.view.apply(found[row].pixels, classifier.channels)[None]
    except ImageError as error:
        outcome.left_out[found.names[row]] = str(error)
        return None


def _ask(framework: Framework, image: Any, target: int | None, name: str, hush: bool) -> Views:
    """One photograph, with a bar over the methods if a terminal is there to see it."""
    from tqdm import tqdm

    with tqdm(total=len(framework.methods), desc=name, unit="method", disable=hush, leave=False, file=sys.stderr) as bar:

        def step(method: str) -> None:
            bar.set_postfix_str(method)
            bar.update()

        return framework.explain(image, target, names=[name], progress=step)


def _write(views: Views, path: Path) -> Path:
    from xai_lib import plots

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(plots.png(views.figure()))
    return path
