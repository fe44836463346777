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
    "no dense end": Reason(
        r"does not end in a dense layer", r"VGG and ResNet", "a network that does not end in a dense layer, where RAP begins"
    ),
    "two classes": Reason(
        r"compares two classes, and there is one output", r"output=", "one output, where two classes are compared"
    ),
    "no logits": Reason(
        r"relevance begins at logits", r"without its softmax or sigmoid",
        "probabilities, declared as such, where relevance needs the logits",
    ),
    "no rule": Reason(r"no rule is known for", r"known are", "operations for which relevance has no rule"),
    "bounds": Reason(
        r"needs bounds of what that layer sees", r'pixels="gamma"',
        "the rule of the pixels where the first layer does not see them one by one",
    ),
    "no layers": Reason(
        r"shows none of its layers", r"made from", "a scripted or traced network, which shows none of its layers"
    ),
    "no gradients": Reason(
        r"differentiabl|gives no gradients", r"lime|another",
        "a network that gives no gradients: quantised, or made in inference mode",
    ),
    "unseen": Reason(
        r"did not see|depends on the input unseen|no_grad", r"lime|functions of torch|let gradients pass",
        "parts of the forward pass that no gradient or trace passes through",
    ),
    "checkpoint": Reason(
        r"inside of torch.utils.checkpoint", r"layer=", "a layer inside of a checkpointed block, whose input is replaced"
    ),
    "no layer": Reason(
        r"no layer gives feature maps", r"layer=", "a network without a layer whose maps follow the image"
    ),
}

METHODS = (
    "advise", "elime", "evo_lrp", "fem", "grad_cam", "grad_cam_pp", "greedy_deletion", "greedy_insertion",
    "integrated_gradients", "layer_cam", "lime", "lime_stratified", "lrp", "lrp_composite", "random_search", "rap",
    "score_cam", "shap",
)  # fmt: skip
CAMS = ("advise", "fem", "grad_cam", "grad_cam_pp", "layer_cam", "score_cam")
GRADIENT_CAMS = ("advise", "grad_cam", "grad_cam_pp", "layer_cam")
PATHS = ("integrated_gradients", "shap")
RELEVANCE = ("evo_lrp", "lrp", "lrp_composite", "rap")
PIXEL_RULE = ("evo_lrp", "lrp_composite", "rap")


def row(*refusals: tuple[str, tuple[str, ...]]) -> dict[str, str]:
    """All methods work but those that refuse: pairs of a reason and methods."""
    states = dict.fromkeys(METHODS, "works")
    for reason, methods in refusals:
        states |= dict.fromkeys(methods, f"refuses: {reason}")
    return states


NEGATIVE = ("negative inputs", ("rap",))
EXPECTED: dict[str, dict[str, str]] = {
    # layers, activations, memory layouts, copies
    "plain": row(),
    "PyTorch tutorial CNN": row(),
    "F.relu": row(),
    "one shared ReLU": row(),
    "in-place ReLU": row(),
    "autograd.Function swish": row(("unseen", RELEVANCE)),
    "SiLU": row(NEGATIVE),
    "maps (N, h, w, C)": row(),
    "x.view(x.size(0), -1)": row(),
    "BatchNorm": row(),
    "batch norm without statistics": row(("batch", METHODS)),
    "GroupNorm": row(),
    "LayerNorm2d": row(),
    "dilated convolutions": row(),
    "weight_norm": row(),
    "silu by function": row(NEGATIVE),
    "clamp for ReLU": row(),
    "mean((2, 3)) for pooling": row(),
    "blocks that return tuples": row(),
    # behaviour: F3, F5, F6, F8, F9
    "branch in no_grad": row(("unseen", (*RELEVANCE, *PATHS))),
    "scaled input": row(),
    "normalises inside": row(),
    "flips its input": row(("no layer", CAMS)),
    "frozen parameters": row(),
    "auxiliary decoder": row(),
    "keeps self.x": row(),
    "holds a lock": row(),
    "weights written through .data": row(),
    "attribute changed": row(),
    "module replaced": row(),
    "dropout left on": row(("chance", METHODS)),
    "dropout in evaluation mode": row(),
    "margin of 40": row(),
    "torch.utils.checkpoint": row(("checkpoint", ("shap",))),
    "a hook of the user's": row(),
    # what goes in, what comes out, number formats
    "one channel, two classes": row(),
    "one channel, mean of three": row(("channels", METHODS)),
    "one channel, wrapped by a mean": row(("bounds", PIXEL_RULE)),
    "one channel, expanded to three": row(),
    "five channels": row(),
    "images that are not square": row(),
    "view left at 224 pixels": row(),
    "returns a dict": row(("output", METHODS)),
    "returns a dict, output= given": row(),
    "returns a tuple, output= given": row(),
    "returns a dataclass, output= given": row(),
    "one logit": row(("one column", METHODS)),
    "one logit, output=sigmoid": row(("two classes", ("advise",))),
    "logits of several labels, output=sigmoid": row(),
    "sigmoids of several labels, output=sigmoid": row(("no logits", RELEVANCE)),
    "probabilities": row(("probabilities", METHODS)),
    "probabilities, output= given": row(("no logits", RELEVANCE)),
    "class_names of another length": row(("class_names", METHODS)),
    "NaN": row(("NaN", METHODS)),
    "scores (N, classes, 1, 1)": row(("no dense end", ("rap",))),
    "half": row(),
    "bfloat16": row(),
    "double": row(),
    "autocast inside": row(),
    "dynamically quantised": row(("no gradients", (*GRADIENT_CAMS, *PATHS)), ("no rule", RELEVANCE)),
    "Lightning module": row(),
    "DataParallel": row(),
    "torch.jit.script": row(("no layers", (*CAMS, *RELEVANCE))),
    "torch.jit.trace": row(("no layers", (*CAMS, *RELEVANCE))),
    "torch.compile": row(),
    "made in inference_mode": row(("no gradients", (*CAMS, *PATHS))),
    "explained in inference_mode": row(),
    "explained in no_grad": row(),
    "training mode": row(),
    # networks of torchvision and timm
    "resnet18": row(),
    "mobilenet_v3_small": row(NEGATIVE),
    "timm ViT": row(NEGATIVE),
    "timm ViT with register tokens": row(NEGATIVE),
    "timm Swin": row(NEGATIVE),
    "timm ConvNeXt": row(NEGATIVE),
    "torchvision ViT": row(NEGATIVE),
    "torchvision DenseNet": row(),
    "timm EfficientNet": row(NEGATIVE),
}
