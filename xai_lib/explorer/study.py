"""What can be asked (network, image, class, method, layer) and the answers, each made once. No widgets."""

from __future__ import annotations

import copy
import dataclasses
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from xai_lib import explainers
from xai_lib.classifiers import Classifier, ClassifierError, layers
from xai_lib.errors import XaiError
from xai_lib.explanation import Settings
from xai_lib.explorer.jobs import Job
from xai_lib.explorer.scene import Scene
from xai_lib.images import Images


class ExplorerError(XaiError):
    """Nothing to explore, or a map that cannot be had."""


@dataclass(frozen=True)
class Question:
    """`network`: its place in the list; `image`: its name; `layer`: dotted name, "" for the method's own choice."""

    network: int
    image: str
    target: int
    method: str
    layer: str = ""


@dataclass(frozen=True, eq=False)
class Answer:
    """A map `(H, W)` float32 with its costs (images, seconds), or None and the reason."""

    map: Tensor | None
    signed: bool = False
    calls: int = 0
    seconds: float = 0.0
    error: str = ""


class Study:
    """Networks, images and methods; scenes and answers are kept for as long as it lives."""

    def __init__(
        self,
        classifiers: Classifier | Sequence[Classifier],
        images: Images,
        methods: Sequence[str],
        *,
        layers: Sequence[str] | None = None,
        seed: int = 0,
        settings: Mapping[str, Settings] | None = None,
    ) -> None:
        self.classifiers = [classifiers] if isinstance(classifiers, Classifier) else list(classifiers)
        self.images, self.methods, self.seed, self.settings = images, list(methods), seed, dict(settings or {})
        if not (self.classifiers and len(images) and self.methods):
            raise ExplorerError("explore: expected at least one classifier, one image and one method")
        for method in [*self.methods, *self.settings]:
            explainers.get(method)
        self._layers = layers
        self._found_layers: dict[int, tuple[str, ...]] = {}
        self._scenes: dict[tuple[int, str], Scene] = {}
        self._answers: dict[Question, Answer] = {}
        self._copies: dict[int, Classifier] = {}
        self._turn = threading.Lock()

    def first(self) -> Question:
        """The first network, image and method, and the class predicted."""
        name = self.images.names[0]
        return Question(0, name, self.scene(0, name).leading(1)[0].index, self.methods[0])

    def title(self, method: str) -> str:
        """The method's name as papers write it."""
        return explainers.get(method).title.partition(":")[0]

    def scene(self, network: int, image: str) -> Scene:
        """The image as that network wants it. Raises `ImageError` for a file that cannot be read."""
        if (network, image) not in self._scenes:
            classifier = self.classifiers[network]
            self._scenes[network, image] = Scene(classifier, classifier.view.apply(self.images[image].pixels))
        return self._scenes[network, image]

    def layers(self, network: int, method: str) -> tuple[str, ...]:
        """The layers to choose from, the method's own choice first ("" where it has one); empty if it has none to choose."""
        if not any(field.name == "layer" for field in dataclasses.fields(explainers.get(method).settings_class)):
            return ()
        if network not in self._found_layers:
            classifier = self.classifiers[network]
            self._found_layers[network] = tuple(stages(classifier) if self._layers is None else self._layers)
        return ("", *self._found_layers[network])

    def settings_for(self, question: Question) -> Settings:
        """What the method is called with."""
        chosen = self.settings.get(question.method) or explainers.get(question.method).settings_class()
        fields: dict[str, Any] = {"layer": question.layer} if question.layer else {}
        return dataclasses.replace(chosen, **fields)

    def expected_calls(self, question: Question) -> int | None:
        """How many images the method will send through the network, where it says so in one number."""
        explainer, settings = explainers.get(question.method), self.settings_for(question)
        numbers = [int(number) for number in re.findall(r"\d+", explainer.cost)]
        if len(numbers) != 1:
            return None
        named = [f.name for f in dataclasses.fields(settings) if f.default == numbers[0]]  # such as LIME's `samples`
        return int(getattr(settings, named[0])) if named else numbers[0]

    def kept(self, question: Question) -> Answer | None:
        """The answer if it was made before."""
        return self._answers.get(question)

    def answer(self, question: Question) -> Answer:
        """The map, or in words why there is none; made at the first call."""
        if question not in self._answers:
            self._answers[question] = self._explained(question)
        return self._answers[question]

    def start(self, question: Question) -> Job[Answer]:
        """`answer` on a thread of its own, already begun."""
        job = Job(lambda: self.answer(question), self._turn)
        job.start()
        return job

    def _explained(self, question: Question) -> Answer:
        image = self.scene(question.network, question.image).image
        network = self._copy(question.network)
        try:
            explainer = explainers.get(question.method)
            found = explainer.explain(network, image[None], question.target, self.settings_for(question), self.seed)
        except XaiError as error:
            return Answer(None, error=str(error))
        except Exception as error:  # of a library behind the method
            return Answer(None, error=f"{type(error).__name__}: {error}")
        return Answer(found.maps[0].cpu(), found.signed, found.network_calls, found.seconds)

    def _copy(self, network: int) -> Classifier:
        """A copy for explaining: a method's hooks must not see the passes that erasing asks for meanwhile."""
        if network not in self._copies:
            self._copies[network] = copy.deepcopy(self.classifiers[network])
        return self._copies[network]


def stages(classifier: Classifier) -> tuple[str, ...]:
    """Names of the layers that give the last maps of each resolution above 1x1, deepest first.

    Our choice of layers worth a look; outer modules, such as whole blocks, go before their parts. Found by a trial run;
    empty for a network without such maps.
    """
    size = (classifier.view.size, classifier.view.size)
    found: dict[tuple[int, int], str] = {}
    try:
        for name, extent in layers.named_maps(classifier, size):
            if name.count(".") <= found.get(extent, name).count("."):
                found[extent] = name
        last = [classifier.feature_layer]
    except ClassifierError:
        last = []
    by_size = sorted(found, key=lambda extent: extent[0] * extent[1])
    return tuple(dict.fromkeys([*last, *(found[extent] for extent in by_size)]))
