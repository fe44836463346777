"""The table: the state that each cell must have, and what each kind of refusal must say."""

from __future__ import annotations

from typing import NamedTuple


class Reason(NamedTuple):
    """A kind of refusal: regular expressions for what was found and for the way out, and a line for the docs."""

    found: str
    way_out: str
    words: str


REASONS = {
    "output": Reason(
        r"expected logits \(N, classes\), found", r"output=",
        "a network that returns something other than logits, until output= says where they are",
    ),
    "one column": Reason(
        r"one output column", r'output="sigmoid"', 'a single logit, until output="sigmoid" says what it means'
    ),
    "probabilities": Reason(
        r"its outputs are probabilities", r'output="probabilities"',
        'probabilities in place of logits, until output="probabilities" says so',
    ),
    "channels": Reason(
        r"cannot take images of 3 channel", r"mean=", "images of another number of channels than the network takes"
    ),
    "size": Reason(r"cannot take images of \d+ x \d+", r"view=", "images of a size that the network cannot take"),
    "class_names": Reason(
        r"class_names has 3 names", r"give one for each", "class_names of another length than the logits"
    ),
    "NaN": Reason(r"gives NaN", r"look for", "logits that are NaN"),
    "batch": Reason(
        r"depend on the other images of its batch", r"statistics",
        "a network in which an image's logits depend on the others of its batch",
    ),
    "chance": Reason(
        r"other logits for the same image", r"training=", "logits that differ from run to run, as with dropout left on"
    ),
    "negative inputs": Reason(
        r"sees negative inputs", r"alpha_beta", "layers that see negative inputs, for which RAP has no rule"
    ),
    "no rule": Reason(r"no rule", r"known are|use|name|take|wrap", "operations for which relevance has no rule"),
    "unseen": Reason(
        r"Function|no_grad|detach", r".", "parts of the forward pass without a gradient, or with one of their own"
    ),
    "no gradients": Reason(r"gradient", r"lime|elime|float", "a network that gives no gradients"),
    "no layers": Reason(r"scripted|traced|quanti", r"made from|give|lime", "a network that shows none of its layers"),
    "layer": Reason(r"layer", r"layer=|name", "a network without a layer whose output is feature maps"),
}

METHODS = (
    "advise", "elime", "evo_lrp", "fem", "grad_cam", "grad_cam_pp", "greedy_deletion", "greedy_insertion",
    "integrated_gradients", "layer_cam", "lime", "lime_stratified", "lrp", "lrp_composite", "random_search", "rap",
    "score_cam", "shap",
)  # fmt: skip
MASKS = ("elime", "greedy_deletion", "greedy_insertion", "lime", "lime_stratified", "random_search")
CAMS = ("advise", "fem", "grad_cam", "grad_cam_pp", "layer_cam", "score_cam")
RELEVANCE = ("evo_lrp", "lrp", "lrp_composite", "rap")
GRADIENTS = ("integrated_gradients", "shap")


def works(**refusals: str | tuple[str, ...]) -> dict[str, str]:
    """A row that works but for `refusals`, by method."""
    return {m: f"refuses: {refusals[m].replace('_', ' ')}" if m in refusals else "works" for m in METHODS}


def refuses(reason: str, *methods: str) -> dict[str, str]:
    """A row in which `methods`, or all, refuse for one reason."""
    return {m: f"refuses: {reason}" if m in (methods or METHODS) else "works" for m in METHODS}


EXPECTED: dict[str, dict[str, str]] = {}
