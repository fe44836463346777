"""The methods, one module each. `get("elime").explain(classifier, images)`; `names()` lists them."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from xai_lib.errors import nearest
from xai_lib.explanation import Explainer, UnknownExplainer, registered


@cache
def _load_all() -> None:
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{__name__}.{module.name}")


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
