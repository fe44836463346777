"""One photograph, one class, one method at a time: the map, and what the network says once parts are erased.

```python
explorer.explore(classifier, images.load("photos"), methods=("grad_cam", "lrp", "lime"))
```

In a notebook this is a panel of widgets; in a headless run, where nobody can click, the same call gives a figure.
`Scene` (one photograph and what is erased) and `Study` (maps, kept once made) work without widgets.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from xai_lib import plots
from xai_lib.classifiers import Classifier
from xai_lib.explanation import Settings
from xai_lib.explorer.jobs import Cancelled, Job
from xai_lib.explorer.scene import Scene
from xai_lib.explorer.study import Answer, ExplorerError, Question, Study, stages
from xai_lib.images import Images

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from xai_lib.explorer.panel import Panel

__all__ = ["Answer", "Cancelled", "ExplorerError", "Job", "Question", "Scene", "Study", "explore", "figure", "stages"]

METHODS = ("grad_cam", "layer_cam", "lrp", "integrated_gradients", "elime", "lime")
SHARE = 0.1  #: of the pixels that the figure of a headless run erases


def explore(
    classifiers: Classifier | Sequence[Classifier],
    images: Images,
    methods: Sequence[str] = METHODS,
    *,
    layers: Sequence[str] | None = None,
    seed: int = 0,
    settings: Mapping[str, Settings] | None = None,
    interactive: bool | None = None,
) -> Panel | Figure:
    """A panel to explore `images` before one network or several, or its figure where nobody can click.

    `methods`: names of registered explainers. `layers`: dotted names offered where a method has a layer to choose; None
    for those of `stages`. `settings`: by method's name, defaults for the others. `interactive`: None for a panel wherever
    there is a kernel and no headless run of `xai run`. The figure shows the first image and the first method. Raises
    `ExplorerError` for nothing to show and `UnknownExplainer`; whatever a method refuses stands in the panel as text.
    """
    study = Study(classifiers, images, methods, layers=layers, seed=seed, settings=settings)
    if _somebody_looks() if interactive is None else interactive:
        from xai_lib.explorer.panel import Panel

        return Panel(study)
    return figure(study)


def figure(study: Study, share: float = SHARE) -> Figure:
    """The first image before the first network: photograph, map of the first method for the predicted class, and the
    probability of that class without the superpixel of most relevance (in the mean), and without the top `share`."""
    question = study.first()
    scene, answer = study.scene(question.network, question.image), study.answer(question)
    if answer.map is None:
        raise ExplorerError(f"{question.method} on {question.image}: {answer.error}")
    name, before = scene.classifier.class_name(question.target), float(scene.original[question.target])
    panels: list[tuple[Any, Any, str]] = [(scene.picture, scene.mask, f"{question.image}\n{name} {before:.3f}")]

    def add(what: str) -> None:
        panels.append((scene.picture, scene.mask, f"{what} erased\n{float(scene.probabilities()[question.target]):.3f}"))
        scene.restore()

    scene.toggle(scene.strongest(answer.map))
    add("superpixel")
    scene.erase_top(share, answer.map)
    add(f"top {share:.0%}")
    return plots.exploration(panels, scene.image, answer.map, answer.signed, f"{study.title(question.method)}\nrelevance")


def _somebody_looks() -> bool:
    """Whether a kernel runs this, and not one that `xai run` started."""
    from IPython.core.getipython import get_ipython

    return "XAI_RUN_ROOT" not in os.environ and hasattr(get_ipython(), "kernel")
