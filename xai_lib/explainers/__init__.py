"""The methods, one module each. `get("elime").explain(classifier, images)`; `names()` lists them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache
from pathlib import Path

from xai_lib.errors import nearest
from xai_lib.explanation import Explainer, UnknownExplainer, registered

CARDS = Path(__file__).parents[1] / "cards" / "methods"
"""A card for each method, written by `make cards`; see `xai_lib.cards`."""


@cache
def _load_all() -> None:
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{__name__}.{module.name}")
    for name, method in registered().items():  # so that help() shows them
        if (CARDS / f"{name}.md").is_file():
            method.__doc__ = f"{inspect.cleandoc(method.__doc__ or method.title)}\n\n{card(name)}"


def card(name: str) -> str:
    """What was measured of a method, Markdown: cost, determinism, sensitivity, localisation, known failures."""
    file = CARDS / f"{name}.md"
    if not file.is_file():
        raise UnknownExplainer(f"no card of {name!r}; {nearest(name, sorted(f.stem for f in CARDS.glob('*.md')))}")
    return file.read_text(encoding="utf-8").partition("\n")[2]  # without the comment that it was written by a command


def names() -> list[str]:
    """The names of all methods."""
    _load_all()
    return list(registered())


def get(name: str) -> Explainer:
    """The method of that name; raises `UnknownExplainer` with the nearest names."""
    _load_all()
    known = registered()
    if name not in known:
        raise UnknownExplainer(f"no explainer is called {name!r}; {nearest(name, list(known))}")
    return known[name]()
