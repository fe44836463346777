"""A card as Markdown."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from xai_lib import explainers
from xai_lib.cards.networks import Contract
from xai_lib.explanation import Explainer, registered

HEAD = "<!-- written by `make cards` from measurements; changes by hand are lost -->"


MEASURED = explainers.CARDS / "measured.json"


def write() -> None:
    """All cards, from what was measured and from the table of awkward networks."""
    explainers.names()  # imports them all
    measured, contract = json.loads(MEASURED.read_text(encoding="utf-8")), Contract.read()
    for name, method in registered().items():
        if name in measured:
            text = card(method, measured[name], measured["grad_cam"], contract)
            (explainers.CARDS / f"{name}.md").write_text(text, encoding="utf-8")


def card(
    method: type[Explainer], measured: Mapping[str, Any], reference: Mapping[str, Any], contract: Contract
) -> str:
    """The card of a method. `reference`: the same measurements of Grad-CAM, to which seconds are a ratio."""
    m, sections = measured, []
    sections.append(("Methodology", [
        ("Source", method.source),
        ("Asks of the network", f"{method.needs}; {contract.works_on(method.name)}"),
        ("Hyperparameters", _fields(method)),
        ("Determinism", f"same seed: {_same(m['same_seed'])}; another seed: rank correlation {_number(m['other_seed'])}"),
        ("Cost", f"{m['calls']:.0f} pictures through the network for each picture explained, {_ratio(m, reference)}"),
        ("Signs", "signed: positive speaks for the class, negative against it" if method.signed else "no signs: 0 or more"),
        ("Sum of the map", _sum(m["sum"])),
    ]))  # fmt: skip
    sections.append(("Sensitivity", [
        ("Input", f"rank correlation with the map of the picture under noise (sd 0.02): {_number(m['noise'])}"),
        ("Label", f"with the map for the second most probable class: {_number(m['label'])}"),
        ("Weights", f"with the map of the same network, all weights random: {_number(m['weights'])}"),
    ]))  # fmt: skip
    sections.append(("Perceptibility", [
        ("Localisation", f"on the critter, which covers {_share(m['chance'])}: positive relevance {_share(m['mass'])}, as many "
         f"of the strongest pixels as it has {_share(m['rank'])}, the strongest pixel {_share(m['pointing'])}"),
        ("Minimality", f"Gini index of the sizes {_number(m['sparseness'])} (0: even, 1: one pixel)"),
    ]))  # fmt: skip
    failed = [*contract.refusals(method.name), *failures(m)] or ["none of those tried"]
    sections.append(("Known failures", [("Measured", text) for text in failed]))
    lines = [HEAD, f"# {method.title}", "",
             f"`explainers.get(\"{method.name}\")`. Default settings, {m['images']} drawn critters, `critters_vgg19`. "
             "Form: saliency cards (Boggust et al. 2023).", ""]  # fmt: skip
    for title, rows in sections:
        lines += [f"## {title}", "", "| | |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows), ""]
    return "\n".join(lines)


def failures(m: Mapping[str, Any]) -> list[str]:
    """What the measurements hold against a method, in words; the limits are our choice."""
    found = []
    if m["label"] > 0.95:
        found.append("the map hardly depends on the class that is asked about")
    if m["weights"] > 0.7:
        found.append("the map hardly depends on what the network has learnt")
    if m["noise"] < 0.5:
        found.append("noise that the eye hardly sees changes the map")
    if m["other_seed"] < 0.5:
        found.append("chance decides much of the map: average several seeds")
    if m["rank"] < m["chance"]:
        found.append("points at the critter less than chance does")
    if m["sum"] and min(m["sum"].values()) > 0.05:
        found.append("the map sums to no score that could be named")
    return found


def _fields(method: type[Explainer]) -> str:
    fields = dataclasses.fields(method.settings_class)
    return ", ".join(f"`{f.name}` {_default(f)}" for f in fields) or "none"


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    text = f"{value:g}" if isinstance(value, float) else repr(value)
    return text if len(text) < 60 else "…"


def _same(correlation: float) -> str:
    return "the same map" if correlation > 1 - 1e-9 else f"rank correlation {_number(correlation)}"


def _ratio(m: Mapping[str, Any], reference: Mapping[str, Any]) -> str:
    ratio = m["seconds"] / reference["seconds"]
    return f"{ratio:.2g} times the seconds of Grad-CAM" if ratio < 100 else f"{ratio:.0f} times the seconds of Grad-CAM"


def _sum(errors: Mapping[str, float] | None) -> str:
    if errors is None:
        return "says nothing: no signs"
    best = min(errors, key=lambda what: errors[what])
    by = f"{errors[best]:.2g} of" if errors[best] < 1 else f"{errors[best]:.2g} times"
    return f"comes nearest to the {best}: misses it by {by} its size (median over the pictures)"


def _number(value: float) -> str:
    return "not defined (constant maps)" if value != value else f"{value:.2f}"


def _share(value: float) -> str:
    return "–" if value != value else f"{value:.0%}"
