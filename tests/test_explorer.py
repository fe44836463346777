"""What the explorer knows without a screen, its panel without a browser, and its figure. tests/browser has the rest."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules import module as modules

from tests.networks import picture, tiny
from xai_lib import explainers, explorer, images, plots
from xai_lib.classifiers import Classifier
from xai_lib.errors import XaiError
from xai_lib.explainers import integrated_gradients, lime
from xai_lib.explorer import Job, Question, Scene, Study
from xai_lib.explorer.panel import Panel
from xai_lib.images import Images, View
from xai_lib.superpixels import fill_of, masked_images

pytestmark = pytest.mark.usefixtures("one_thread")

ENDLESS = {"lime": lime.Settings(samples=200_000)}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Two pictures of 36 pixels."""
    folder = tmp_path_factory.mktemp("photos")
    for i, name in enumerate("ab"):
        pixels = (picture(i, 36).permute(1, 2, 0) * 255).byte().numpy()
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return images.load(folder)


@pytest.fixture
def scene() -> Scene:
    made = Scene(tiny(), picture(), segmentation="slic")
    assert made.segments.max() >= 2
    return made


def study(photos: Images, *methods: str, **more: object) -> Study:
    return Study(tiny(), photos, methods, **more)  # type: ignore[arg-type]


# Scenes


def test_erasing_a_superpixel_changes_exactly_its_pixels_and_erasing_it_again_restores_them(scene: Scene) -> None:
    number = scene.superpixel_at(20, 9)
    assert number == scene.segments[9, 20]
    scene.toggle(number)
    inside = scene.segments == number
    assert torch.equal(scene.picture[:, ~inside], scene.image[:, ~inside])
    assert not scene.picture[:, inside].any()
    assert torch.equal(scene.mask, inside)
    scene.toggle(number)
    assert torch.equal(scene.picture, scene.image)


def test_superpixels_at_the_edge_and_beyond_are_those_of_the_edge(scene: Scene) -> None:
    assert scene.superpixel_at(32, -1) == scene.segments[0, 31]


def test_probabilities_are_those_of_the_erased_picture(scene: Scene) -> None:
    assert torch.equal(scene.original, scene.classifier.probabilities(scene.image[None])[0])
    scene.toggle(0)
    scene.toggle(2)
    kept = torch.ones(1, int(scene.segments.max()) + 1, dtype=torch.bool)
    kept[0, [0, 2]] = False
    shown = masked_images(scene.image, scene.segments, kept)
    assert torch.equal(scene.probabilities(), scene.classifier.probabilities(shown)[0])
    assert not torch.equal(scene.probabilities(), scene.original)
    scene.fill = "mean"
    shown = masked_images(scene.image, scene.segments, kept, "mean")
    assert torch.equal(scene.probabilities(), scene.classifier.probabilities(shown)[0])


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.1, 102), (0.5, 512), (1.0, 1024)])
def test_the_top_share_is_of_all_pixels_and_holds_the_highest_values(scene: Scene, share: float, count: int) -> None:
    relevance = torch.randn(32, 32, generator=torch.Generator().manual_seed(1))
    scene.erase_top(share, relevance)
    assert scene.mask.sum() == count
    if 0 < count < 1024:
        assert relevance[scene.mask].min() > relevance[~scene.mask].max()


def test_clicks_and_the_top_share_add_up_and_are_restored_together(scene: Scene) -> None:
    relevance = torch.zeros(32, 32)
    relevance[scene.segments == 1] = 1.0
    scene.erase_top(float((scene.segments == 1).float().mean()), relevance)
    scene.toggle(0)
    assert torch.equal(scene.mask, scene.segments <= 1)
    scene.erase_top(0, relevance)
    assert torch.equal(scene.mask, scene.segments == 0)
    scene.restore()
    assert not scene.mask.any()


def test_the_strongest_superpixel_is_that_of_the_largest_mean(scene: Scene) -> None:
    relevance = torch.randn(32, 32, generator=torch.Generator().manual_seed(2))
    means = [float(relevance[scene.segments == i].mean()) for i in range(int(scene.segments.max()) + 1)]
    assert scene.strongest(relevance) == int(np.argmax(means))


# Jobs


def state(classifier: Classifier) -> list[object]:
    """Everything that an explanation may touch."""
    tensors = [(t.data_ptr(), t._version, t.sum().item()) for t in classifier.state_dict().values()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in classifier.modules()]
    gradients = [(p.requires_grad, p.grad) for p in classifier.parameters()]
    return [tensors, hooks, [m.training for m in classifier.modules()], gradients]


def process_hooks() -> tuple[int, int]:
    return len(modules._global_forward_hooks), len(modules._global_forward_pre_hooks)


def begun(job: Job[object], calls: int = 10) -> None:
    end = time.monotonic() + 60
    while job.calls < calls and time.monotonic() < end:
        time.sleep(0.005)
    assert job.calls >= calls and job.is_alive()


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("integrated_gradients", integrated_gradients.Settings(steps=500, internal_batch=1)),
        ("lime", ENDLESS["lime"]),
    ],
)
def test_a_cancelled_method_stops_at_its_next_pass_and_leaves_the_network_as_it_was(method: str, settings: object) -> None:
    classifier, before_hooks = tiny(), process_hooks()
    classifier.network[0].train()
    before = state(classifier)
    job: Job[object] = Job(lambda: explainers.get(method).explain(classifier, picture()[None], 1, settings))  # type: ignore[arg-type]
    job.start()
    begun(job)
    job.cancel()
    job.join(60)
    assert not job.is_alive() and job.result is None and job.failure is None
    assert state(classifier) == before
    assert process_hooks() == before_hooks


def test_a_job_counts_its_own_images_once_and_nobody_elses() -> None:
    classifier, go, gone = tiny(), threading.Event(), threading.Event()
    classifier.check((32, 32))  # a trial run sends images of its own, once

    def work() -> str:
        classifier(torch.zeros(3, 3, 32, 32))
        gone.set()
        assert go.wait(60)
        classifier.probabilities(torch.zeros(2, 3, 32, 32))
        return "done"

    job = Job(work)
    job.start()
    assert gone.wait(60)
    classifier(torch.zeros(7, 3, 32, 32))
    job.cancel()  # does not disturb this thread
    assert classifier(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
    assert job.calls == 3
    go.set()
    job.join(60)
    assert job.result is None and job.calls == 3

    second = Job(work)
    second.start()
    second.join(60)
    assert (second.result, second.calls) == ("done", 5)


def test_what_a_job_raises_is_kept() -> None:
    job = Job(lambda: tiny()(torch.zeros(1, 5, 32, 32)))
    job.start()
    job.join(60)
    assert job.failure is not None and job.result is None


# Studies


def test_answers_are_those_of_the_explainer_and_are_kept_by_what_was_asked(photos: Images) -> None:
    asked = study(photos, "grad_cam", "lime", seed=3, settings={"lime": lime.Settings(samples=20)})
    question = Question(0, "a", 1, "lime")
    assert asked.kept(question) is None
    answer = asked.answer(question)
    image = photos.batch(View(32, 36))[:1]
    wanted = explainers.get("lime").explain(tiny(), image, 1, lime.Settings(samples=20), seed=3)
    assert answer.map is not None and torch.equal(answer.map, wanted.maps[0]) and answer.signed
    assert asked.answer(question) is answer is asked.kept(question)
    maps = [asked.answer(Question(0, "a", 1, "grad_cam", layer)).map for layer in ("", "5", "2")]
    assert all(isinstance(each, Tensor) for each in maps)
    assert torch.equal(maps[0], maps[1]) and not torch.equal(maps[1], maps[2])  # type: ignore[arg-type]


def test_layers_are_the_last_of_each_resolution_deepest_first_for_methods_that_have_one(photos: Images) -> None:
    asked = study(photos, "grad_cam", "lime")
    assert explorer.stages(tiny()) == ("5", "2")
    assert asked.layers(0, "grad_cam") == ("", "5", "2")
    assert asked.layers(0, "lime") == ()
    assert study(photos, "fem", layers=["3"]).layers(0, "fem") == ("", "3")


def test_expected_calls_follow_the_settings(photos: Images) -> None:
    names = ("lime", "elime", "grad_cam", "evo_lrp", "score_cam")
    asked = study(photos, *names, settings={"lime": lime.Settings(samples=50)})
    found = {name: asked.expected_calls(Question(0, "a", 0, name)) for name in names}
    assert found == {"lime": 50, "elime": 300, "grad_cam": 2, "evo_lrp": None, "score_cam": None}


def test_what_a_method_refuses_is_said_in_words(photos: Images) -> None:
    refused = Study(tiny(), photos, ["grad_cam"]).answer(Question(0, "a", 0, "grad_cam", "no_such_layer"))
    assert refused.map is None and "no layer 'no_such_layer'" in refused.error


def test_nothing_to_explore_and_unknown_methods_are_errors(photos: Images) -> None:
    with pytest.raises(explorer.ExplorerError, match="at least one"):
        Study([], photos, ["lime"])
    with pytest.raises(XaiError, match="no explainer is called 'limes'"):
        explorer.explore(tiny(), photos, ["limes"])


# The figure of a run in which nobody can click


def test_without_a_front_end_there_is_a_figure_with_the_same_numbers(photos: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    found = explorer.explore(tiny(), photos, ["layer_cam"])
    assert isinstance(found, Figure)
    titles = [axes.get_title() for axes in found.axes if axes.get_title()]
    asked = study(photos, "layer_cam")
    question, scene = asked.first(), asked.scene(0, "a")
    relevance = asked.answer(question).map
    assert relevance is not None
    before = f"{scene.original.max():.3f}"
    scene.toggle(scene.strongest(relevance))
    one = f"{scene.probabilities()[question.target]:.3f}"
    scene.restore()
    scene.erase_top(0.1, relevance)
    top = f"{scene.probabilities()[question.target]:.3f}"
    assert titles == [
        f"a\nclass {question.target} {before}", "Layer-CAM\nrelevance", f"superpixel erased\n{one}", f"top 10% erased\n{top}",
    ]  # fmt: skip
    assert one != before
    monkeypatch.setenv("XAI_RUN_ROOT", "somewhere")
    monkeypatch.setattr("IPython.core.getipython.get_ipython", lambda: type("Shell", (), {"kernel": None})())
    assert isinstance(explorer.explore(tiny(), photos, ["layer_cam"]), Figure)
    monkeypatch.delenv("XAI_RUN_ROOT")
    panel = explorer.explore(tiny(), photos, ["layer_cam"])
    assert isinstance(panel, Panel)
    panel.wait(60)


def test_maps_are_drawn_on_their_own_scale_and_superpixels_keep_their_place() -> None:
    image, values = torch.zeros(3, 2, 2), torch.tensor([[-4.0, 0.0], [2.0, 4.0]])
    signed = plots.over(image, values, True)
    low, middle, high = (signed[y, x] for y, x in ((0, 0), (0, 1), (1, 1)))
    assert low[2] > low[0] and high[0] > high[2] and np.ptp(middle) < 0.05
    np.testing.assert_allclose(plots.scale(values, False), [[0, 0], [0.5, 1]])
    large = plots.outlined(np.zeros((8, 8, 3)), np.arange(64).reshape(8, 8) // 32, marked=[1])
    assert large.shape == (448, 448, 3)
    assert large[10, 10].max() == 0 and large[224, 100, 0] == pytest.approx(0.9, abs=0.01) and large[224, 100, 2] == 0


# The panel, without a browser


def now(panel: Panel) -> str:
    return panel.bars.value.partition('class="xai-now">')[2].partition("<")[0]


def test_the_panel_follows_clicks_slider_and_choices(photos: Images) -> None:
    panel = Panel(study(photos, "grad_cam", "lrp", settings={}))
    panel.wait(60)
    scene = panel.study.scene(0, "a")
    target = panel.question.target
    assert target == int(scene.original.argmax()) and panel.answer and panel.answer.map is not None
    before = panel.photograph.value
    panel.clicks._handle_mouse_msg(None, {"dataX": 5 * 14 + 3, "dataY": 20 * 14, "event": "click"}, [])
    assert scene.erased == {scene.superpixel_at(5, 20)}
    assert panel.photograph.value != before and now(panel) == f"{scene.probabilities()[target]:.3f}"
    panel.restore.click()
    assert panel.photograph.value == before and not scene.erased
    panel.share.value = 25
    assert scene.mask.sum() == 256
    panel.method.value = "lrp"
    panel.wait(60)
    assert panel.question.method == "lrp" and panel.layer.disabled
    assert scene.mask.sum() == 256
    panel.search.value = panel.search.options[4]
    panel.wait(60)
    assert panel.question.target == 4 == panel.target.value and panel.search.value == ""
    panel.image.value = "b"
    panel.wait(60)
    assert panel.question.image == "b" and panel.share.value == 0 and not panel.study.scene(0, "b").mask.any()


def test_the_panel_reports_and_cancels_and_answers_meanwhile(photos: Images) -> None:
    panel = Panel(study(photos, "lime", "grad_cam", settings=ENDLESS))
    end = time.monotonic() + 60
    while "images" not in panel.status.value and time.monotonic() < end:
        time.sleep(0.01)
    panel.clicks._handle_mouse_msg(None, {"dataX": 70, "dataY": 70, "event": "click"}, [])
    assert len(panel.study.scene(0, "a").erased) == 1 and not panel.cancel.disabled
    panel.cancel.click()
    panel.wait(60)
    assert "cancelled after" in panel.status.value and panel.answer is None
    assert panel.study.kept(panel.question) is None
    assert panel.cancel.description == "start again"
    panel.cancel.click()
    assert panel.cancel.description == "cancel" and panel.progress.layout.visibility == "visible"
    panel.method.value = "grad_cam"  # left for another
    panel.wait(60)
    assert panel.answer and panel.answer.map is not None and "Grad-CAM: 2 images" in panel.status.value
    assert panel.cancel.disabled and panel.progress.layout.visibility == "hidden"


def test_the_panel_says_in_words_what_cannot_be_had(photos: Images, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    Image.new("RGB", (40, 40), "red").save(tmp_path / "good.png")
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    panel = Panel(Study(Classifier(network, view=View(32, 36)), images.load(tmp_path), ["rap"]))
    assert "bad.png: expected a picture" in panel.status.value
    panel.image.value = "good"
    panel.wait(60)
    assert "RAP: layer" in panel.status.value and panel.share.disabled and panel.answer and panel.answer.map is None


def test_pixels_of_unrelated_superpixels_survive_the_mean_fill(scene: Scene) -> None:
    scene.fill = "mean"
    scene.toggle(1)
    inside = scene.segments == 1
    assert torch.equal(scene.picture[:, inside], fill_of(scene.image, scene.segments, "mean")[:, inside])
    assert torch.equal(scene.picture[:, ~inside], scene.image[:, ~inside])
