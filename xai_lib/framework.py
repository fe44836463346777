"""Three views of one decision: Grad-CAM, LRP and SHAP of the same image, side by side, on any classifier (paper 4).

Kureshi, Selvamani, "XAI framework for complete understanding of image classification models". The paper names one class that
holds the three methods; its repository has none, so that this one is ours.

```python
views = Framework(classifier).explain(images)          # images (N, C, H, W) in 0..1
views.figure()                                         # a row an image: photograph, then a map a method
Framework(classifier).explain(image, [281, 285])       # one image, two targets: two rows
```
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from xai_lib import explainers
from xai_lib.classifiers import Classifier, Prediction
from xai_lib.errors import XaiError
from xai_lib.explainers import cam, lrp_composite, shap
from xai_lib.explanation import Explainer, Explanation, Settings, Targets, checked_images, resolve_targets
from xai_lib.layer_inputs import find

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

METHODS = ("grad_cam", "lrp_composite", "shap")
NAMES = {
    "lrp_composite": "LRP", "shap": "SHAP", "lrp": "LRP, z+ and ε", "rap": "RAP", "evo_lrp": "EVO-LRP",
    "integrated_gradients": "integrated gradients",
}  # fmt: skip
Scale = Literal["own", "shared"]


class FrameworkError(XaiError):
    """A question that the framework cannot be asked: methods that occur twice, settings of a method it does not have."""


class Reading(NamedTuple):
    """What a map says in numbers, computed from it alone.

    `centre`: share of the positive relevance in the central half of the area (0.5 if it lay evenly). `strongest`: share of
    all |relevance| in the strongest 10 % of the pixels (0.1 if it lay evenly). `balance`: sum of the relevance over the sum of
    its size, -1..1; 1 for maps without negative values. NaN where there is no (positive) relevance at all.
    """

    centre: float
    strongest: float
    balance: float

    def __str__(self) -> str:
        if np.isnan(self.strongest):
            return "no relevance anywhere"
        centre = "none positive" if np.isnan(self.centre) else f"centre {self.centre:.0%}"
        return f"{centre}, top tenth {self.strongest:.0%}, balance {self.balance:+.2f}"


def reading(values: Tensor) -> Reading:
    """The reading of a map `(H, W)`; the central half is the centred rectangle with sides of 1/sqrt(2), by whole pixels."""
    flat = values.detach().double().cpu()
    size, positive = flat.abs(), flat.clamp(min=0)
    rows, columns = (_middle(extent) for extent in flat.shape)
    total, above = float(size.sum()), float(positive.sum())
    tenth = size.flatten().topk(max(1, round(0.1 * size.numel()))).values
    return Reading(
        float(positive[rows, columns].sum()) / above if above else float("nan"),
        float(tenth.sum()) / total if total else float("nan"),
        float(flat.sum()) / total if total else float("nan"),
    )


def displayed(images: Tensor) -> tuple[Tensor, str]:
    """Images `(N, C, H, W)` as `(N, 3, H, W)` to be drawn, and a line that says so where colours were lost.

    One channel is shown as grey; of two, and of more than three, whose colours nobody knows, the mean.
    """
    channels = images.shape[1]
    if channels == 3:
        return images, ""
    grey = images.float().mean(1, keepdim=True).expand(-1, 3, -1, -1)
    return grey, "" if channels == 1 else f"\n(mean of {channels} channels)"


def _middle(extent: int) -> slice:
    kept = max(1, round(extent / 2**0.5))
    return slice((extent - kept) // 2, (extent - kept) // 2 + kept)


@dataclass
class Views:
    """What the methods answer for N rows, each an image and a target.

    `images` `(N, C, H, W)`; `targets` `(N,)`; `target_names`; `top`: the most probable classes of each row; `explanations` by
    method; `refusals`: the reason of each method that cannot explain this network.
    """

    images: Tensor
    targets: Tensor
    target_names: list[str]
    names: list[str]
    top: list[list[Prediction]]
    probabilities: list[float]
    methods: tuple[str, ...]
    explanations: dict[str, Explanation] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)

    def readings(self) -> dict[str, list[Reading]]:
        """A reading a row, by method."""
        return {method: [reading(values) for values in e.maps] for method, e in self.explanations.items()}

    def table(self) -> pd.DataFrame:
        """A line a row: photo, predicted class, its probability, target and its probability, and each method's reading."""
        import pandas as pd

        found = self.readings()
        lines = []
        for i, top in enumerate(self.top):
            line: dict[str, Any] = {
                "photo": self.names[i], "predicted": top[0].name, "probability": top[0].probability,
                "target": self.target_names[i], "target_probability": self.probabilities[i],
            }  # fmt: skip
            for method, values in found.items():
                line |= {f"{method}_{word}": value for word, value in values[i]._asdict().items()}
            line |= {f"{method}_refused": reason for method, reason in self.refusals.items()}
            lines.append(line)
        return pd.DataFrame(lines)

    def figure(self, scale: Scale = "own", width: float = 7.0) -> Figure:
        """A row an image and target: the photograph, then each method's map with its colour bar and reading.

        `scale`: "own" for each map, or "shared": all maps of one method on one scale. `width`: inch.
        """
        from xai_lib import plots

        titles = [
            f"{name}\n{top[0].name} {top[0].probability:.2f}" + ("" if top[0].index == t else f"\nasked: {target} {p:.2f}")
            for name, top, t, target, p in zip(
                self.names, self.top, self.targets.tolist(), self.target_names, self.probabilities, strict=True
            )
        ]
        images, remark = displayed(self.images)
        titles = [title + remark for title in titles]
        return plots.xai_views(images, titles, self._columns(), shared=scale == "shared", width=width)

    def gallery(self, row: int = 0, across: int = 4) -> Figure:
        """All methods of one row in a grid, `across` panels in a line, the photograph first: for many methods."""
        from xai_lib import plots

        images, remark = displayed(self.images[row : row + 1])
        title = f"{self.names[row]}\nasked: {self.target_names[row]} {self.probabilities[row]:.2f}{remark}"
        columns = [c._replace(maps=None if c.maps is None else c.maps[row : row + 1], readings=c.readings[row : row + 1])
                   for c in self._columns()]  # fmt: skip
        return plots.xai_gallery(images[0], title, columns, across)

    def _columns(self) -> list[Any]:
        """What is drawn of each method."""
        from xai_lib import plots

        found, columns = self.readings(), []
        for method in self.methods:
            title, explanation = _title(method), self.explanations.get(method)
            words = [str(each) for each in found.get(method, [])]
            maps = explanation.maps if explanation else None
            columns.append(plots.Column(title, maps, explanation.signed if explanation else True, words, self._note(method)))
        return columns

    def _note(self, method: str) -> str:
        """What a column's head says of the method, or why it is empty."""
        if method in self.refusals:
            return self.refusals[method]
        details = self.explanations[method].details[0] if self.explanations[method].details else {}
        layer = details.get("layer")
        return f"at {layer}" if isinstance(layer, str) and layer else ""

    def _repr_png_(self) -> bytes:
        from xai_lib import plots

        return plots.png(self.figure())


class Framework:
    """Several explainers behind one question, for one classifier.

    `methods`: names of registered explainers. `settings`: a method's settings by its name; those not named have defaults, but
    that Grad-CAM differentiates the logit, and on torchvision's VGG looks at the last convolution before its pooling
    (`features.29` of VGG16), as paper 4 means it. `background`: images `(B, C, H, W)` in 0..1 for SHAP. `seed`: of all
    methods. Raises `UnknownExplainer` and `FrameworkError`.
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        methods: Sequence[str] = METHODS,
        settings: Mapping[str, Settings] | None = None,
        background: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        self.classifier, self.methods, self.seed = classifier, tuple(methods), seed
        twice = sorted({m for m in self.methods if self.methods.count(m) > 1})
        unknown = sorted(set(settings or {}) - set(self.methods))
        if twice or unknown or not self.methods:
            raise FrameworkError(
                f"methods: expected distinct names, found {', '.join(self.methods) or 'none'}"
                + (f"; settings of {', '.join(unknown)}, which is not among them" if unknown else "")
            )
        self.explainers: dict[str, Explainer] = {m: explainers.get(m) for m in self.methods}
        if "shap" in self.explainers and background is not None:
            self.explainers["shap"] = shap.Shap(background)
        self.settings = {m: e.settings_class() for m, e in self.explainers.items()}
        if "grad_cam" in self.settings:
            self.settings["grad_cam"] = cam.Settings(layer=_last_of_vgg(classifier), score="logit")
        self.settings |= settings or {}

    def explain(
        self, images: Tensor, targets: Targets = None, *, names: Sequence[str] = (), top: int = 5,
        progress: Callable[[str], None] = lambda method: None,
    ) -> Views:  # fmt: skip
        """Ask every method about `images` `(N, C, H, W)` or `(C, H, W)`, in 0..1.

        `targets`: as every explainer takes them; besides, of a single image any number of classes, a row each. `names` stand
        above the photographs; `progress` is told each method when it has answered. A method that refuses the network leaves
        its reason in `Views.refusals`. Raises `ExplanationError` for images and targets that no method can take.
        """
        one = isinstance(images, Tensor) and images.ndim == 3
        images = checked_images(images[None] if one else images, self.classifier.channels)
        several = len(targets) if isinstance(targets, Tensor | Sequence) and np.ndim(targets) else 1
        if len(images) == 1 and several > 1:
            images, names = images.expand(several, -1, -1, -1), [*names][:1] * several
        at = images.to(self.classifier.device)
        wanted, _ = resolve_targets(self.classifier, at, targets)
        probabilities = self.classifier.probabilities(at).gather(1, wanted[:, None].to(at.device))[:, 0].tolist()
        views = Views(
            images, wanted.cpu(), [self.classifier.class_name(t) for t in wanted.tolist()],
            [*names] or [f"image {i + 1}" if several == 1 else "image" for i in range(len(images))],
            self.classifier.top(at, top), probabilities, self.methods,
        )  # fmt: skip
        for method, explainer in self.explainers.items():
            try:
                views.explanations[method] = explainer.explain(
                    self.classifier, images, wanted.cpu(), self.settings[method], self.seed
                )
            except XaiError as error:
                views.refusals[method] = str(error)
            progress(method)
        return views

    def diagram(self) -> Figure:
        """The pipeline as it is: picture, network, each method with its layer and shape, and what comes out (figure 1)."""
        from xai_lib import plots

        view = self.classifier.view
        size = (view.size, view.size)
        millions = sum(p.numel() for p in self.classifier.network.parameters()) / 1e6
        network = f"{self.classifier.name}\n{millions:.1f} million weights\n{self.classifier.classes} classes"
        boxes = [(_title(m), *self._described(m, size)) for m in self.methods]
        return plots.xai_pipeline(f"photograph\n{self.classifier.channels} × {view.size} × {view.size}", network, boxes)

    def _described(self, method: str, size: tuple[int, int]) -> tuple[str, str]:
        """What a method looks at, and what it gives, in words; a refusal in place of both."""
        settings: Any = self.settings[method]
        out = f"{'signed' if self.explainers[method].signed else 'unsigned'} map\n{size[0]} × {size[1]}"
        try:
            if isinstance(settings, cam.Settings):
                from xai_lib.feature_maps import feature_maps

                layer = settings.layer or self.classifier.feature_layer
                maps = feature_maps(self.classifier, self._grey(size), layer).activations
                return f"output of {layer}\n{_shape(maps.shape[1:])}, {settings.score}", out
            if isinstance(settings, shap.Settings):
                place = find(self.classifier, settings.layer, size)
                what = "the pixels" if place.name == "pixels" else f"input of {place.name}"
                return f"{what}\n{_shape(place.shape)}, {settings.samples} samples", out
            if isinstance(settings, lrp_composite.Settings):
                counts = lrp_composite.counts(self.classifier, self._grey(size), settings)
                return "all layers, rules:\n" + ", ".join(f"{n} × {rule}" for rule, n in counts.items()), out
        except XaiError as error:
            return str(error), "refused"
        return f"needs {self.explainers[method].needs}", out

    def _grey(self, size: tuple[int, int]) -> Tensor:
        return torch.full((1, self.classifier.channels, *size), 0.5, device=self.classifier.device)


def _title(method: str) -> str:
    """What a method is called in figures."""
    from xai_lib import plots

    return (plots.METHOD_NAMES | NAMES).get(method, method)


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _last_of_vgg(classifier: Classifier) -> str:
    """The last activation before the last pooling of torchvision's VGG; "" for other networks."""
    from torchvision.models import VGG

    network = classifier.network
    return f"features.{len(network.features) - 2}" if isinstance(network, VGG) else ""
