"""The framework on several networks: what it asks, what it shows, what it says when a method refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from matplotlib.figure import Figure
from torch import Tensor, nn

from tests.networks import picture, planted, tiny
from xai_lib import classifiers, explainers, images, plots
from xai_lib.classifiers import Classifier
from xai_lib.explainers import cam, shap
from xai_lib.explanation import ExplanationError, UnknownExplainer
from xai_lib.framework import METHODS, Framework, FrameworkError, Reading, displayed, reading
from xai_lib.images import View
from xai_lib.weights import WeightsError

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = {"shap": shap.Settings(samples=6, background=3)}
PICTURES = torch.stack([picture(s) for s in range(3)])
BACKGROUND = torch.stack([picture(s) for s in range(10, 14)])


def framework(classifier: Classifier | None = None, **changes: Any) -> Framework:
    return Framework(classifier or tiny(), **{"settings": QUICK, "background": BACKGROUND} | changes)


def test_a_reading_by_hand() -> None:
    values = torch.zeros(10, 10)
    values[5, 5], values[0, 0], values[9, 9] = 3.0, 1.0, -4.0
    assert reading(values) == Reading(0.75, 1.0, 0.0)
    assert str(reading(values)) == "centre 75%, top tenth 100%, balance +0.00"
    even = reading(torch.ones(100, 100))
    assert even.centre == pytest.approx(0.5, abs=0.01) and even.strongest == pytest.approx(0.1) and even.balance == 1
    assert str(reading(torch.zeros(4, 4))) == "no relevance anywhere"
    assert str(reading(-torch.ones(4, 4))).startswith("none positive, ")


def test_each_method_answers_as_it_does_alone() -> None:
    views = framework(seed=3).explain(PICTURES)
    assert tuple(views.explanations) == METHODS == views.methods and not views.refusals
    targets = tiny().probabilities(PICTURES).argmax(1)
    assert torch.equal(views.targets, targets) and [top[0].index for top in views.top] == targets.tolist()
    assert views.target_names == [tiny().class_name(t) for t in targets.tolist()]
    alone = {
        "grad_cam": explainers.get("grad_cam").explain(tiny(), PICTURES, settings=cam.Settings(score="logit")),
        "lrp_composite": explainers.get("lrp_composite").explain(tiny(), PICTURES),
        "shap": shap.Shap(BACKGROUND).explain(tiny(), PICTURES, settings=QUICK["shap"], seed=3),
    }
    for method, wanted in alone.items():
        assert torch.equal(views.explanations[method].maps, wanted.maps), method
    table = views.table()
    assert list(table["photo"]) == ["image 1", "image 2", "image 3"]
    assert table["probability"][1] == pytest.approx(float(tiny().probabilities(PICTURES)[1].max()))
    assert table["shap_balance"][2] == pytest.approx(reading(alone["shap"].maps[2]).balance)


def test_one_image_and_several_targets() -> None:
    views = framework().explain(PICTURES[0], [0, 3, 1], names=["cat"])
    assert views.targets.tolist() == [0, 3, 1] and views.names == ["cat"] * 3 and len(views.images) == 3
    p = tiny().probabilities(PICTURES[:1])[0]
    assert views.probabilities == pytest.approx(p[[0, 3, 1]].tolist())
    assert not torch.equal(views.explanations["lrp_composite"].maps[0], views.explanations["lrp_composite"].maps[1])
    assert torch.equal(framework().explain(PICTURES[:1], 3).targets, torch.tensor([3]))


def scales(figure: Figure) -> list[tuple[float, float]]:
    """The colour limits of the maps, row by row: each has a colour bar."""
    drawn = [image for axes in figure.axes for image in axes.images if image.colorbar is not None]
    assert all(image.colorbar is not None for image in drawn)
    return [image.get_clim() for image in drawn]


def test_scales_own_and_shared() -> None:
    views = framework().explain(PICTURES)
    own, shared = (np.array(scales(views.figure(scale))).reshape(3, 3, 2) for scale in ("own", "shared"))  # type: ignore[arg-type]
    for column, method in enumerate(METHODS):
        maps = views.explanations[method].maps.numpy()
        signed = views.explanations[method].signed
        wanted = [np.percentile(np.abs(m), plots.CLAMP) if signed else m.max() for m in maps]
        assert own[:, column, 1] == pytest.approx(wanted, rel=1e-5)
        assert own[:, column, 0] == pytest.approx([-w if signed else 0 for w in wanted], rel=1e-5)
        assert len(set(shared[:, column, 1])) == 1
    whole = np.percentile(np.abs(views.explanations["shap"].maps.numpy()), plots.CLAMP)
    assert shared[0, 2, 1] == pytest.approx(whole, rel=1e-5)


def words(figure: Figure) -> str:
    return "\n".join([t.get_text() for axes in figure.axes for t in axes.texts] + [a.get_title() for a in figure.axes])


def test_the_figure_says_what_was_computed() -> None:
    views = framework().explain(PICTURES[:2], [1, 1], names=["first", "second"])
    said = words(views.figure()).replace("\n", " ")
    for values in views.readings().values():
        for each in values:
            assert str(each) in said
    assert "first" in said and "asked: class 1" in said and "at 3" in said
    assert views._repr_png_().startswith(b"\x89PNG")


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts that lie over one another."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = [t for axes in figure.axes for t in (*axes.texts, axes.title) if t.get_text()]
    texts += [t for axes in figure.axes for bar in axes.child_axes for t in bar.get_yticklabels()]
    assert len(texts) > 6
    boxes = [(t.get_text(), t.get_window_extent(canvas.get_renderer())) for t in texts if t.get_visible()]
    return [(a, b) for i, (a, one) in enumerate(boxes) for b, two in boxes[i + 1 :] if one.overlaps(two)]


def test_no_words_lie_over_others() -> None:
    with_refusal = Framework(planted()[0], methods=(*METHODS, "rap"), settings=QUICK, background=torch.rand(3, 3, 32, 32))
    for views in (
        framework().explain(PICTURES, [0, 1, 2], names=["a name that is much too long for its column", "b", "c"]),
        with_refusal.explain(torch.rand(1, 3, 32, 32)),
    ):
        assert overlaps(views.figure()) == []
    assert overlaps(framework().diagram()) == []


def test_a_gallery_has_every_method_of_a_row_and_no_words_over_others() -> None:
    methods = (*METHODS, "rap", "fem", "lrp")
    views = Framework(planted()[0], methods=methods, settings=QUICK, background=torch.rand(3, 3, 32, 32))
    found = views.explain(torch.rand(2, 3, 32, 32), [0, 1], names=["one", "two"])
    figure = found.gallery(1, across=3)
    assert overlaps(figure) == []
    heads = [axes.get_title().split("\n")[0] for axes in figure.axes if axes.get_title()]
    assert heads[0] == "two" and len(heads) == 1 + len(methods)
    drawn = [axes.images[-1].get_array() for axes in figure.axes[1:] if axes.images and axes.images[-1].colorbar]
    kept = [m for m in methods if m not in found.refusals]
    assert len(drawn) == len(kept)
    assert all(np.allclose(a, found.explanations[m].maps[1]) for a, m in zip(drawn, kept, strict=True))


def test_a_refusal_is_shown_in_its_panel() -> None:
    classifier = planted()[0]  # no convolution: nothing for LRP to hand relevance through
    views = Framework(classifier, settings=QUICK, background=torch.rand(3, 3, 32, 32)).explain(torch.rand(2, 3, 32, 32))
    assert "lrp_composite" in views.refusals and "shap" in views.explanations
    figure = views.figure()
    assert words(figure).replace("\n", " ").count("refused: ") == 2
    assert views.table()["lrp_composite_refused"][0] == views.refusals["lrp_composite"]
    assert "refused" in words(Framework(classifier, settings=QUICK).diagram())


def of_channels(channels: int) -> Classifier:
    """Weights of a grey network spread over its channels: on equal channels all give the same answer."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first, second, last = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1), nn.Linear(48, 4)
        network = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU(), nn.AdaptiveAvgPool2d(2),
            nn.Flatten(), last,
        )  # fmt: skip
    network[0].weight.data = first.weight.data.expand(-1, channels, -1, -1) / channels
    network[0].bias.data = first.bias.data
    return Classifier(network, name=f"of {channels}", mean=(0.4,) * channels, std=(0.3,) * channels, view=View(32, 32))


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_number_of_channels(channels: int) -> None:
    """The same images in equal channels: the same maps as of the grey network, readings and figures included."""
    grey = torch.stack([picture(s) for s in range(2)]).mean(1, keepdim=True)
    background = BACKGROUND.mean(1, keepdim=True)
    one, many = (
        Framework(of_channels(c), settings=QUICK, background=background.expand(-1, c, -1, -1)).explain(
            grey.expand(-1, c, -1, -1), [0, 1], names=["first", "second"]
        ) for c in (1, channels)
    )  # fmt: skip
    assert not one.refusals and not many.refusals
    for method in ("grad_cam", "lrp_composite"):
        assert torch.allclose(one.explanations[method].maps, many.explanations[method].maps, atol=1e-4), method
    shown, remark = displayed(many.images)
    assert shown.shape == (2, 3, 32, 32) and torch.allclose(shown, grey.expand(-1, 3, -1, -1), atol=1e-6)
    assert remark == ("" if channels in (1, 3) else f"\n(mean of {channels} channels)")
    figure = many.figure()
    assert ("mean of" in words(figure)) == bool(remark) and overlaps(figure) == [] and overlaps(many.gallery()) == []
    drawn = figure.axes[0].images[0].get_array()
    assert drawn.shape[-1] == 3 and np.ptp(np.asarray(drawn), axis=-1).max() <= 1 / 255, "grey is shown as grey"
    assert f"{channels} × 32 × 32" in words(Framework(of_channels(channels), settings=QUICK).diagram())


def test_colours_are_shown_as_they_are() -> None:
    shown, remark = displayed(PICTURES)
    assert torch.equal(shown, PICTURES) and remark == ""


def vgg() -> nn.Module:
    from torchvision.models.vgg import VGG, cfgs, make_layers

    network = VGG(make_layers(cfgs["D"]), num_classes=4, init_weights=False)
    network.classifier = nn.Sequential(nn.Linear(25088, 8), nn.ReLU(), nn.Linear(8, 4))
    return network


def of(name: str) -> tuple[Classifier, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name == "vgg16":
            return Classifier(vgg(), name=name, view=View(64, 72)), torch.rand(1, 3, 64, 64)
        if name == "resnet18":
            network = torchvision.models.resnet18(weights=None)
            return Classifier(network, name=name, view=View(64, 72)), torch.rand(1, 3, 64, 64)
    try:
        classifier = classifiers.load(name)
    except WeightsError:
        pytest.skip(f"weights of {name} are not here")
    return classifier, images.load("photos").select(["coffee"]).batch(classifier.view)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "mobilenetv1_075", "squeezenet1_1", "vgg16", "resnet18"])
def test_on_networks(name: str) -> None:
    classifier, photograph = of(name)
    asked = Framework(classifier, settings={"shap": shap.Settings(samples=4, background=2)})
    views = asked.explain(photograph)
    assert not views.refusals and all(e.maps.any() and e.maps.isfinite().all() for e in views.explanations.values())
    said = words(asked.diagram())
    assert f"{classifier.classes} classes" in said and "Grad-CAM" in said
    if name == "vgg16":
        assert "output of features.29\n512 × 4 × 4, logit" in said
        assert "input of features.7\n128 × 32 × 32" in said and "1 × z^B" in said
        layers = [views.explanations[m].details[0]["layer"] for m in ("grad_cam", "shap")]
        assert layers == ["features.29", "features.7"]


def test_questions_that_cannot_be_asked() -> None:
    with pytest.raises(UnknownExplainer, match="no explainer is called 'gradcam'; nearest: grad_cam"):
        Framework(tiny(), methods=("gradcam",))
    for wrong, message in (
        ({"methods": ()}, "expected distinct names, found none"),
        ({"methods": ("lrp", "lrp")}, "expected distinct names, found lrp, lrp"),
        ({"methods": ("lrp",), "settings": QUICK}, "settings of shap, which is not among them"),
    ):  # fmt: skip
        with pytest.raises(FrameworkError, match=message):
            Framework(tiny(), **wrong)  # type: ignore[arg-type]
    with pytest.raises(ExplanationError, match="class 9 is not among the 5"):
        framework().explain(PICTURES, 9)
    with pytest.raises(ExplanationError, match="expected values in 0..1"):
        framework().explain(PICTURES * 3)
