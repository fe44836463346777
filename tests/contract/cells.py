"""One cell of the table: a method on a network is right, refuses in words, or neither."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from tests.contract import oracles, relevance
from tests.contract.expected import REASONS
from tests.contract.oracles import Explained, Wrong
from tests.contract.subject import Subject, blocks
from tests.contract.zoo import ZOO
from xai_lib import explainers
from xai_lib.errors import XaiError
from xai_lib.explanation import Explainer, Explanation

SMALL: dict[str, dict[str, Any]] = {
    "elime": {"calls": 60},
    "evo_lrp": {"generations": 2, "population": 4, "runs": 10, "subset": 50, "groups": "all"},
    "greedy_deletion": {"calls": 60},
    "greedy_insertion": {"calls": 60},
    "integrated_gradients": {"steps": 8},
    "lime": {"samples": 500},
    "lime_stratified": {"samples": 500},
    "random_search": {"calls": 60},
    "score_cam": {"confidence": "logit"},
    "shap": {"samples": 40, "background": 1},
}
"""Settings that are quick where the defaults are not."""
METHODS = explainers.names()
CHECKS: dict[str, Callable[..., None]] = {
    **dict.fromkeys(oracles.CAMS, oracles.cam), "score_cam": oracles.score_cam, "advise": oracles.advise,
    "integrated_gradients": oracles.integrated_gradients, "shap": oracles.shap,
    **dict.fromkeys(("elime", "greedy_deletion", "greedy_insertion", "random_search"), oracles.search),
    **dict.fromkeys(("lime", "lime_stratified"), oracles.lime),
    **dict.fromkeys(("lrp", "lrp_composite", "evo_lrp"), relevance.lrp), "rap": relevance.rap,
}  # fmt: skip


@lru_cache(maxsize=2)
def subject(network: str) -> Subject:
    """A network of the zoo, kept while its row is in work."""
    return ZOO[network][1]()


def state(network: str, method: str) -> str:
    """The state of a cell: "works", "refuses: <key of REASONS>", or what is wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        on = subject(network)
        try:
            for settings in _settings(method, on):
                # a change of the network must not reach the next explanation
                _check(method, ZOO[network][1]() if on.change else on, settings)
        except XaiError as error:
            return _refusal(str(error))
        except Wrong as wrong:
            return f"WRONG: {wrong}"
        except Exception as error:
            return f"OBSCURE: {type(error).__name__}: {str(error)[:200]}"
    return "works"


def _settings(method: str, on: Subject) -> list[dict[str, Any]]:
    settings = SMALL.get(method, {})
    if method == "shap" and on.splits:
        return [settings, settings | {"layer": "pixels"}]
    if method in ("fem", "score_cam") and on.layer:
        return [settings | {"layer": on.layer}]
    if not on.chain:  # what conserves exactly is what an oracle can hold on to
        conserving = {"evo_lrp": {"bias": "spread", "values": (1.0,)}, "lrp_composite": {"epsilon": 1e-9}}
        settings = settings | conserving.get(method, {})
    return [settings]


def _check(method: str, on: Subject, values: dict[str, Any]) -> None:
    explainer: Explainer = explainers.get(method)
    settings = explainer.settings_class(**values)
    background = blocks(on.size, on.channels, seed=7)[None]
    if method == "shap":
        explainer = type(explainer)(background)  # type: ignore[call-arg]
    classifier = on.classifier()
    if on.change:
        explainer.explain(classifier, on.image[None], settings=settings)
        on.change()
    with on.around():
        found = explainer.explain(classifier, on.image[None], settings=settings)
    explained = _explained(on, method, settings, found)
    oracles.check_target(explained)
    check = CHECKS[method]
    check(explained, background) if method == "shap" else check(explained)


def _explained(on: Subject, method: str, settings: Any, found: Explanation) -> Explained:
    def plain(value: Any) -> Any:  # results made in inference mode cannot be computed with
        return value.clone() if isinstance(value, Tensor) else value

    if found.maps.shape != (1, *on.size):
        raise Wrong(f"maps of shape {tuple(found.maps.shape)}")
    details = {key: plain(value) for key, value in found.details[0].items()}
    return Explained(on, method, settings, plain(found.maps)[0].double(), int(found.targets[0]), details)


def _refusal(message: str) -> str:
    for key, reason in REASONS.items():
        if re.search(reason.found, message) and re.search(reason.way_out, message):
            return f"refuses: {key}"
    return f"UNEXPECTED REFUSAL: {message}"


def row(network: str) -> dict[str, str]:
    """The states of all methods on one network."""
    with torch.random.fork_rng():
        return {method: state(network, method) for method in METHODS}
