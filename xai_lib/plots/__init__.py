"""Every figure style of the compendium, once: arrays and tensors in, a matplotlib `Figure` out.

Widths are those of a printed page (7 inch) or half of one (3.4), type is 9 point at that size, and a method has the
same colour, dash and place in every figure. Nothing here needs a display or leaves anything in pyplot's global state.
`pictures` has what every notebook shows, the other modules the figures of one paper each.
"""

from __future__ import annotations

from xai_lib.plots.advise import (
    ablation,
    centres,
    groups,
    intervals,
    journey,
    randomisation,
    rewards,
    score_bars,
    scores,
    unit_densities,
)
from xai_lib.plots.brain import (
    accuracies,
    auc_bars,
    confusions,
    mean_maps,
    method_scores,
    size_leak,
    training_curves,
    with_outlines,
)
from xai_lib.plots.counterfactuals import (
    Shown,
    Way,
    confidences,
    cosine_distribution,
    pictures_over_maps,
    search_curves,
    search_outline,
    transition_outline,
)
from xai_lib.plots.critters import interventions, part_strengths, two_sheets
from xai_lib.plots.elime import costs, curves, encoding, features, framework, gains, sizes, stages, superpixels
from xai_lib.plots.evo_lrp import by_depth, convergence, front, metric_bars, relevance_rows
from xai_lib.plots.explorer import exploration, gradient, outlined, over, scale
from xai_lib.plots.insides import bias_account, gradient_paths, layer_blocks, one_map, weighted_units
from xai_lib.plots.leaks import copies, shortcuts
from xai_lib.plots.pictures import maps, masked, panels, predictions, show, show_map, show_over
from xai_lib.plots.style import (
    CLAMP,
    HALF,
    METHOD_COLOURS,
    METHOD_NAMES,
    PAGE,
    SIGNED,
    STYLE,
    UNSIGNED,
    Array,
    Draw,
    canvas,
    pixels,
    png,
)
from xai_lib.plots.xai_framework import Column, class_views, xai_gallery, xai_pipeline, xai_views

__all__ = [
    # style
    "PAGE", "HALF", "SIGNED", "UNSIGNED", "CLAMP", "STYLE", "METHOD_COLOURS", "METHOD_NAMES", "Array", "Draw", "canvas",
    "pixels", "png",
    # pictures
    "masked", "show", "show_map", "show_over", "maps", "panels", "predictions",
    # E-LIME
    "superpixels", "stages", "features", "encoding", "framework", "curves", "sizes", "costs", "gains",
    # ADVISE
    "journey", "unit_densities", "groups", "scores", "centres", "ablation", "randomisation", "score_bars", "rewards",
    "intervals",
    # EVO-LRP
    "relevance_rows", "metric_bars", "convergence", "by_depth", "front",
    # XAI framework
    "layer_blocks", "weighted_units", "bias_account", "gradient_paths", "one_map", "with_outlines", "size_leak",
    "training_curves", "accuracies", "confusions", "method_scores", "auc_bars", "mean_maps",
    # counterfactuals and critters
    "Shown", "Way", "pictures_over_maps", "search_outline", "transition_outline", "search_curves", "cosine_distribution",
    "confidences", "two_sheets", "interventions", "part_strengths",
    # leaks
    "copies", "shortcuts",
    # explorer
    "over", "scale", "outlined", "gradient", "exploration",
    "Column", "class_views", "xai_views", "xai_gallery", "xai_pipeline",
]  # fmt: skip
