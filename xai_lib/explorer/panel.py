"""The widgets of the explorer. What they show comes from a `Study` and its scenes; here is only what is on the screen."""

from __future__ import annotations

import html
import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ipywidgets as widgets
import numpy as np
from ipyevents import Event
from PIL import Image

from xai_lib import plots
from xai_lib.classifiers import Prediction
from xai_lib.errors import XaiError
from xai_lib.explorer.jobs import Job
from xai_lib.explorer.scene import Scene
from xai_lib.explorer.study import Answer, Question, Study

SIDE = "290px"  #: of a picture on the screen; three columns fit JupyterLab's usual width
TICK = 0.2  #: seconds between two looks at a running method
FILLS = (("black", "black"), ("its mean", "mean"))


class Panel(widgets.VBox):
    """Choose image, class, method and layer; click on superpixels or move the slider; watch the probability.

    A method runs on a thread of its own and can be cancelled, so that everything else answers meanwhile. `question` is
    what is shown or computed; `wait()` returns when the map is there.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.question = Question(0, study.images.names[0], 0, study.methods[0])
        self.answer: Answer | None = None
        self._scene: Scene | None = None
        self._job: Job[Answer] | None = None
        self._watcher: threading.Thread | None = None
        self._lock = threading.RLock()  # JupyterLab may deliver messages on another thread than the cell's
        self._silent = False
        self._make_controls()
        self._make_views()
        layout = widgets.Layout(width="100%", max_width="980px", overflow="visible")
        super().__init__([self._controls(), self._views()], layout=layout)
        self.add_class("xai-explorer")
        self._new_scene()

    def wait(self, timeout: float | None = None) -> None:
        """Until the running method has ended and what it found is shown."""
        if self._watcher:
            self._watcher.join(timeout)

    def close(self) -> None:
        """End a running method and take the widgets away."""
        if self._job:
            self._job.cancel()
        super().close()

    # what there is on the screen

    def _make_controls(self) -> None:
        study = self.study
        self.network = _dropdown("network", [(c.name, i) for i, c in enumerate(study.classifiers)], self._choose)
        self.image = _dropdown("image", [(name, name) for name in study.images.names], self._choose)
        self.target = _dropdown("class", [], self._choose)
        self.search = widgets.Combobox(placeholder="search", continuous_update=False, layout=_wide())
        self.search.observe(self._search, "value")
        self.method = _dropdown("method", [(study.title(name), name) for name in study.methods], self._choose)
        self.layer = _dropdown("layer", [("-", "")], self._choose)
        self.network.layout.display = None if len(study.classifiers) > 1 else "none"

    def _make_views(self) -> None:
        self.photograph = widgets.Image(format="png", layout=widgets.Layout(width=SIDE, height=SIDE))
        self.photograph.add_class("xai-photograph")
        self.map = widgets.Image(format="png", layout=widgets.Layout(width=SIDE, height=SIDE))
        self.map.add_class("xai-map")
        self.clicks = Event(source=self.photograph, watched_events=["click"])
        self.clicks.on_dom_event(self._click)
        self.bars = widgets.HTML(layout=widgets.Layout(width="auto"))
        self.bars.add_class("xai-bars")
        self.legend, self.erased = widgets.HTML(), widgets.HTML()
        self.erased.add_class("xai-erased")
        self.share = widgets.FloatSlider(
            0, min=0, max=100, step=1, readout_format=".0f", layout=_wide(), tooltip="share of all pixels, %"
        )
        self.share.observe(self._slide, "value")
        self.share.add_class("xai-share")
        self.fill = widgets.ToggleButtons(options=FILLS, style={"button_width": "92px"})
        self.fill.observe(self._refill, "value")
        self.restore = widgets.Button(description="restore all", icon="undo", layout=widgets.Layout(width="110px"))
        self.restore.on_click(self._restore)
        self.progress = widgets.IntProgress(0, layout=widgets.Layout(width="98%", visibility="hidden"))
        self.cancel = widgets.Button(
            description="cancel", icon="stop", disabled=True, layout=widgets.Layout(width="110px")
        )
        self.cancel.on_click(self._cancel)
        self.cancel.add_class("xai-cancel")
        self.status = widgets.HTML()
        self.status.add_class("xai-status")

    def _controls(self) -> widgets.Widget:
        columns = [
            ("network", self.network), ("image", self.image), ("class", self.target), ("any class", self.search),
            ("method", self.method), ("layer", self.layer),
        ]  # fmt: skip
        boxes = []
        for name, inside in columns:
            box = _column([_heading(name), inside], "180px", "0 4px 0 0")
            box.layout.display = inside.layout.display
            boxes.append(box)
        return _row(boxes)

    def _views(self) -> widgets.Widget:
        left = [_heading("click on a superpixel to erase it"), self.photograph, self.erased]
        middle = [_heading("relevance"), self.map, self.legend]
        right = [
            self.bars, _heading("erase the most relevant pixels, %"), self.share, _heading("what is erased becomes"),
            _row([self.fill, self.restore]), _heading("computation"), self.status, self.progress, self.cancel,
        ]  # fmt: skip
        return _row([_column(left, "296px", "4px 10px 0 0"), _column(middle, "296px", "4px 10px 0 0"), _column(right, "330px")])

    # what the reader does

    def _choose(self, change: dict[str, Any]) -> None:
        with self._lock:
            if self._silent:
                return
            if change["owner"] in (self.network, self.image):
                self._new_scene()
            else:
                self._ask()

    def _search(self, change: dict[str, Any]) -> None:
        with self._lock:
            index = change["new"].partition(" ")[0]
            if self._silent or not self._scene or change["new"] not in self.search.options:
                return
            self._show_classes(self._scene, int(index))
            self._ask()

    def _click(self, event: dict[str, Any]) -> None:
        with self._lock:
            if not self._scene:
                return
            shown = Image.open(io.BytesIO(self.photograph.value)).width / self._scene.image.shape[2]
            self._scene.toggle(self._scene.superpixel_at(int(event["dataX"] / shown), int(event["dataY"] / shown)))
            self._show_scene()

    def _slide(self, _change: Any) -> None:
        with self._lock:
            if not self._silent:
                self._erase_top()
                self._show_scene()

    def _refill(self, _change: Any) -> None:
        with self._lock:
            self._show_scene()

    def _restore(self, _button: Any) -> None:
        with self._lock, self._quietly():
            if self._scene:
                self._scene.restore()
            self.share.value = 0
            self._show_scene()

    def _cancel(self, _button: Any) -> None:
        with self._lock:
            if self._job:
                self._job.cancel()
                self.status.value = _text("stopping …")
            elif self.answer is None:
                self._begin()

    # what follows from it

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """Widgets set here are not taken for the reader's choice."""
        before, self._silent = self._silent, True
        try:
            yield
        finally:
            self._silent = before

    def _new_scene(self) -> None:
        """Another photograph or network: the predicted class, nothing erased."""
        try:
            self._scene = self.study.scene(self.network.value, self.image.value)
        except XaiError as error:
            self._scene = None
            self._show_failure(str(error))
            return
        with self._quietly():
            self._scene.restore()
            self.share.value = 0
            self._show_classes(self._scene, self._scene.leading(1)[0].index)
        self._ask()

    def _show_classes(self, scene: Scene, chosen: int) -> None:
        """The leading classes and the chosen one in the list; all of them in the search box."""
        names = scene.classifier.class_name
        leading = scene.leading()
        if chosen not in [each.index for each in leading]:
            leading.append(Prediction(chosen, names(chosen), float(scene.original[chosen])))
        with self._quietly():
            self.target.options = [(f"{each.name} ({each.probability:.3f})", each.index) for each in leading]
            self.target.value = chosen
            self.search.options = [f"{i} {names(i)}" for i in range(len(scene.original))]
            self.search.value = ""

    def _ask(self) -> None:
        """Show the map of what is chosen: at once where it was made before, else a job makes it."""
        if not self._scene:
            return
        with self._quietly():
            options = self.study.layers(self.network.value, self.method.value)
            kept = self.layer.value if self.layer.value in options else ""
            self.layer.options = [(name or "the method's own", name) for name in options] or [("no layer to choose", "")]
            self.layer.value, self.layer.disabled = kept, not options
        asked = (self.network.value, self.image.value, self.target.value, self.method.value, self.layer.value)
        self.question = Question(*asked)
        self._leave_job()
        self.answer = self.study.kept(self.question)
        self._show_map()
        self._erase_top()
        self._show_scene()
        if self.answer is None:
            self._begin()

    def _begin(self) -> None:
        self._job = job = self.study.start(self.question)
        expected = self.study.expected_calls(self.question)
        self.progress.max, self.progress.value = expected or 1, 0 if expected else 1
        self.progress.layout.visibility = "visible"
        self._offer("cancel")
        name = self.study.title(self.method.value)
        self._watcher = threading.Thread(target=self._watch, args=(job, name, expected), daemon=True)
        self._watcher.start()

    def _watch(self, job: Job[Answer], name: str, expected: int | None) -> None:
        """Report a job's progress while it runs and is wanted, then show what came of it."""
        job.join(TICK)  # a quick method reports nothing but its end
        while job.is_alive():
            with self._lock:
                if self._job is job and not job.cancelled:
                    self.progress.value = min(job.calls, expected) if expected else 1
                    self.status.value = _text(f"{name}: {job.calls} images{f' of {expected}' if expected else ''}")
            job.join(TICK)
        with self._lock:
            if self._job is not job:  # something else was chosen meanwhile
                return
            self._leave_job()
            if job.failure:
                self.answer = Answer(None, error=f"{type(job.failure).__name__}: {job.failure}")
            else:
                self.answer = job.result
            self._show_map()
            if self.answer is None:
                self.status.value = _text(f"{name}: cancelled after {job.calls} images")
                self._offer("start again")
            self._erase_top()
            self._show_scene()

    def _leave_job(self) -> None:
        """No job is waited for any more; one that still runs ends at its next forward pass."""
        if self._job:
            self._job.cancel()
        self._job = None
        self.progress.layout.visibility = "hidden"
        self._offer("")

    def _offer(self, what: str) -> None:
        """What the button does: cancel, start again, or nothing."""
        self.cancel.description, self.cancel.disabled = what or "cancel", not what
        self.cancel.icon = "refresh" if what == "start again" else "stop"

    def _erase_top(self) -> None:
        if self._scene and self.answer and self.answer.map is not None:
            self._scene.erase_top(self.share.value / 100, self.answer.map)
        elif self._scene:
            self._scene.top = self._scene.top & False

    def _show_map(self) -> None:
        """The map over the photograph with its scale and its cost, or in words why there is none."""
        if not self._scene:
            return
        answer, title = self.answer, html.escape(self.study.title(self.method.value))
        if answer is None or answer.map is None:
            grey = plots.pixels(self._scene.image).mean(2, keepdims=True).repeat(3, 2)
            self.map.value, self.legend.value = _png(0.5 * grey + 0.5), ""
            self.status.value = _text(answer.error, "#b00020") if answer else _text(f"{title} …")
        else:
            self.map.value = _png(plots.over(self._scene.image, answer.map, answer.signed))
            self.legend.value = _legend(answer.signed)
            self.status.value = _text(f"{title}: {answer.calls} images in {answer.seconds:.1f} s")
        self.share.disabled = answer is None or answer.map is None

    def _show_scene(self) -> None:
        """The photograph without what is erased, and what the network says of it."""
        scene = self._scene
        if not scene:
            return
        scene.fill = self.fill.value
        picture = plots.pixels(scene.picture)
        self.photograph.value = _png(plots.outlined(picture, scene.segments, sorted(scene.erased)))
        count, share = len(scene.erased), float(scene.mask.float().mean())
        superpixels = f"{count} superpixel{'' if count == 1 else 's'} clicked"
        self.erased.value = _text(f"{superpixels}; {share:.1%} of pixels erased")
        self.bars.value = _bars(scene, self.question.target, scene.probabilities().tolist())

    def _show_failure(self, message: str) -> None:
        self._leave_job()
        blank = _png(np.ones((8, 8, 3)))
        self.photograph.value = self.map.value = blank
        self.legend.value = self.erased.value = self.bars.value = ""
        self.status.value = _text(message, "#b00020")


def _row(inside: Sequence[widgets.Widget]) -> widgets.HBox:
    return widgets.HBox(inside, layout=widgets.Layout(flex_flow="row wrap", overflow="visible"))


def _column(inside: Sequence[widgets.Widget], width: str, margin: str = "4px 0 0 0") -> widgets.VBox:
    return widgets.VBox(inside, layout=widgets.Layout(width=width, margin=margin, overflow="visible"))


def _wide() -> widgets.Layout:
    return widgets.Layout(width="98%")


def _dropdown(name: str, options: Sequence[tuple[str, Any]], observer: Any) -> widgets.Dropdown:
    dropdown = widgets.Dropdown(options=options, layout=_wide(), tooltip=name)
    dropdown.observe(observer, "value")
    dropdown.add_class(f"xai-{name}")
    return dropdown


def _heading(words: str) -> widgets.HTML:
    style = "font-weight:600;line-height:1.2;margin-top:4px"
    return widgets.HTML(f'<div style="{style}">{html.escape(words)}</div>')


def _text(words: str, colour: str = "inherit") -> str:
    return f'<div style="line-height:1.3;color:{colour};overflow-wrap:anywhere">{html.escape(words, quote=False)}</div>'


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((np.clip(picture, 0, 1) * 255).round().astype(np.uint8)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _legend(signed: bool) -> str:
    """The colour scale in one line."""
    words = ("against", "0", "for") if signed else ("0", "", "highest")
    colours = ",".join(plots.gradient(signed))
    spans = "".join(f"<span>{word}</span>" for word in words)
    return (
        f'<div style="height:10px;width:{SIDE};background:linear-gradient(to right,{colours})"></div>'
        f'<div style="display:flex;justify-content:space-between;width:{SIDE};line-height:1.3">{spans}</div>'
    )


def _bars(scene: Scene, target: int, now: Sequence[float]) -> str:
    """The target's probability before and now, and bars of the leading classes: outlined before, filled now."""
    before = scene.original.tolist()
    shown = list(dict.fromkeys([*(each.index for each in scene.leading()), target]))
    best = max(range(len(now)), key=now.__getitem__)
    if best not in shown:
        shown.append(best)
    name = html.escape(scene.classifier.class_name(target))
    rows = [
        f'<div style="font-weight:600;line-height:1.2;margin-top:4px">{name}</div>'
        f'<div style="font-size:150%;line-height:1.4"><span class="xai-before">{before[target]:.3f}</span> → '
        f'<span class="xai-now">{now[target]:.3f}</span></div>'
    ]
    for index in shown:
        weight = 600 if index == target else 400
        label = html.escape(scene.classifier.class_name(index))
        rows.append(
            f'<div style="display:flex;align-items:center;line-height:1.5;font-weight:{weight}">'
            f'<div style="width:128px;overflow:hidden;text-overflow:ellipsis;white-space:nowrap" title="{label}">{label}</div>'
            '<div style="position:relative;width:140px;height:12px;margin:0 6px">'
            f'<div style="position:absolute;width:{100 * now[index]:.1f}%;height:100%;background:#0072B2"></div>'
            f'<div style="position:absolute;box-sizing:border-box;width:{100 * before[index]:.1f}%;height:100%;'
            'border:1.5px solid #888"></div></div>'
            f"<div>{now[index]:.3f}</div></div>"
        )
    return "".join(rows) + '<div style="line-height:1.3;opacity:0.75">outline: whole photograph; filled: as it is now</div>'
