"""The table: the state that each cell must have, and what each kind of refusal must say."""

from __future__ import annotations

from typing import NamedTuple


class Reason(NamedTuple):
    """A kind of refusal: regular expressions for what was found and for the way out, and a line for the docs."""

    found: str
    way_out: str
    words: str


REASONS = {
    "dict": Reason(r"dict", r"output=|wrap", "a network that returns something other than logits, until output= says where they are"),
    "one column": Reason(r"one (column|logit)", r"sigmoid", "a single logit, until output=\"sigmoid\" says what it means"),
    "probabilities": Reason(r"probabilit", r"output=", "probabilities in place of logits, until output=\"probabilities\" says so"),
    "channels": Reason(r"channel", r"mean=", "images of another number of channels than the network takes"),
    "view": Reason(r"size|pixels", r"view=", "a size of images that the network cannot take"),
    "class_names": Reason(r"class_names", r"\d", "class_names of another length than the logits"),
    "NaN": Reason(r"NaN", r".", "logits that are NaN or infinite"),
    "mixes a batch": Reason(r"batch|rows", r"statistics|track_running_stats|alone|eval", "networks in which an image's logits depend on the others of its batch"),
    "chance": Reason(r"dropout|differ", r"training|eval|seed", "logits that differ from run to run, as with dropout left on"),
    "negative inputs": Reason(r"negative inputs", r"alpha_beta", "layers that see negative inputs, for which RAP has no rule"),
    "no rule": Reason(r"no rule", r"known are|use|name|take|wrap", "operations for which relevance has no rule"),
    "unseen": Reason(r"Function|graph|no_grad|gradient", r".", "parts of the forward pass that no trace can follow: custom autograd functions, branches in no_grad"),
    "form": Reason(r"script|trac|quantis|quantiz|compil", r"pass|explain|original|before", "networks without modules or gradients to look into: scripted, traced, quantised"),
    "layer": Reason(r"layer", r"layer=|name", "networks without a layer whose output is feature maps"),
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
