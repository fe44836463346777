"""`xai explain`: the three views of a user's own photograph, without a notebook. Everything heavy is imported when it runs."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xai_lib.errors import XaiError, nearest
from xai_lib.runs.command import app

if TYPE_CHECKING:
    from xai_lib.classifiers import Classifier
    from xai_lib.framework import Views
    from xai_lib.images import Images

HELP = """Explain your own photograph: what a network sees in it, and three views of why.

Grad-CAM shows the region, LRP the pixels, SHAP the signed influence of an early layer; below each map stand the share of
positive relevance in the central half of the picture (50% if it lay evenly), the share of the strongest tenth of the pixels
(10%), and the balance of signs. Any method of the package can stand beside or in place of them: --method, repeated.

\b
Examples:
  xai explain cat.jpg                            writes cat-explained.png
  xai explain cat.jpg --target "tabby"           why this class?
  xai explain cat.jpg --method lime --method rap other methods
  xai explain cat.jpg --network squeezenet1_1 --samples 20
  xai explain holiday/ dog.png --out explained   a picture each, and table.csv

One photograph gives one picture; several, or a folder, a folder with a picture each and table.csv. A file that is no picture is
named and left out, and the exit code is 1. Nothing is downloaded."""
EXIT_CODES = "Exit codes: 0 all explained; 1 a photograph was left out, or no method could explain; 2 unknown name, no file."


class ExplainError(XaiError):
    """A question to `xai explain` that cannot be answered: no such class, no such file, nothing to explain."""


@dataclass
class Outcome:
    """What was written, and what was left out and why."""

    written: list[Path] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    explained: bool = False


@app.command(help=HELP, epilog=EXIT_CODES)
def explain(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", show_default=False, help="Files or folders.")],
    network: Annotated[
        str, typer.Option(help="A network of torchvision, timm:NAME, or a .safetensors file of xai_lib.training.")
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
        int, typer.Option(min=1, help="Of methods that sample: SHAP 50 take some 20 seconds, its paper takes 200.")
    ] = 50,
    seed: Annotated[int, typer.Option(help="Of methods that draw random numbers.")] = 0,
) -> None:
    outcome = run(photos, network, method or [], target, out, samples, seed)
    for path in outcome.written:
        typer.echo(path)
    for name, reason in outcome.left_out.items():
        typer.echo(f"xai: left out {name}: {reason}", err=True)
    for name, reason in outcome.refusals.items():
        typer.echo(f"xai: {name} cannot explain {network}: {reason}", err=True)
    if outcome.left_out or not outcome.explained:
        raise typer.Exit(1)


def run(
    paths: list[Path], network: str, methods: list[str], target: str | None, out: Path | None, samples: int, seed: int
) -> Outcome:
    """Explain the photographs and write pictures and, for several, a table. Raises `XaiError`s for what cannot be asked."""
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise ExplainError(f"no such file or folder: {', '.join(missing)} (paths start from {Path.cwd()})")
    several = len(paths) > 1 or paths[0].is_dir()
    destination = out or (Path("explained") if several else Path(f"{paths[0].stem}-explained.png"))
    _check_destination(destination, several)

    from xai_lib import images

    found = images.load([str(path) for path in paths])
    classifier = _load(network)
    framework = _framework(classifier, methods, samples, seed)
    wanted = None if target is None else find_class(classifier, target)
    outcome, tables = Outcome(), []
    for name in found.names:
        image = _read(found, name, classifier, outcome)
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


def _load(network: str) -> Classifier:
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


def _framework(classifier: Classifier, methods: list[str], samples: int, seed: int) -> Any:
    import dataclasses

    from xai_lib.framework import METHODS, Framework

    plain = Framework(classifier, methods=[*dict.fromkeys(methods)] or METHODS, seed=seed)
    settings = {}
    for name, own in plain.settings.items():
        known = {f.name for f in dataclasses.fields(own)}
        if name == "shap" or ("samples" in known and samples != 50):  # LIME's own default is its paper's
            settings[name] = replace(own, samples=samples)  # type: ignore[call-arg]
    return Framework(classifier, methods=plain.methods, settings=settings, seed=seed)


def find_class(classifier: Classifier, wanted: str) -> int:
    """The class of a network by its number or its name (whatever the case); raises `ExplainError` with the nearest names."""
    names = [classifier.class_name(i) for i in range(classifier.classes)]
    lower = [name.lower() for name in names]
    if wanted.lower() in lower:
        return lower.index(wanted.lower())
    if wanted.lstrip("-").isdigit():
        if 0 <= int(wanted) < len(names):
            return int(wanted)
        raise ExplainError(f"--target {wanted}: {classifier.name} has the classes 0 to {len(names) - 1}")
    inside = [names[i] for i, name in enumerate(lower) if wanted.lower() in name]
    hint = f"names with it: {', '.join(inside[:8])}" if inside else nearest(wanted, lower)
    raise ExplainError(f"--target {wanted!r}: {classifier.name} has no class of that name; {hint}")


def _read(found: Images, name: str, classifier: Classifier, outcome: Outcome) -> Any:
    from xai_lib.images import ImageError

    try:
        return classifier.view.apply(found[name].pixels)[None]
    except ImageError as error:
        outcome.left_out[name] = str(error)
        return None


def _ask(framework: Any, image: Any, target: int | None, name: str, hush: bool) -> Views:
    """One photograph, with a bar over the methods if a terminal is there to see it."""
    from tqdm import tqdm

    with tqdm(total=len(framework.methods), desc=name, unit="method", disable=hush, leave=False, file=sys.stderr) as bar:

        def step(method: str) -> None:
            bar.set_postfix_str(method)
            bar.update()

        views: Views = framework.explain(image, target, names=[name], progress=step)
    return views


def _write(views: Views, path: Path) -> Path:
    from xai_lib import plots

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(plots.png(views.figure()))
    return path
