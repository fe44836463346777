"""Counterfactual and transitional images made by a generator: pictures that a classifier sees as nearly the same.

Suzuki, Kameya, Kutsuna, Mitsumoto: "Understanding the reason for misclassification by generating counterfactual images". For a
picture x* that is misclassified, noises z are sought whose pictures G(z, c) have features like those of x* (their Eq. 1)::

    z^ = argmax_z cos(phi(x*), phi(G(z, c)))

with the class vector c of the correct class, of the wrong one, or the classifier's softmax of x*. Some of the pictures are taken
for the correct class, some for the wrong one; a transition leads from one of the latter to one of the former.

```python
generator = counterfactuals.load_generator("critters")
vectors = counterfactuals.class_vectors(classifier, image, true=0, predicted=1, generator=generator)
found = counterfactuals.invert(generator, classifier, image, vectors, settings=counterfactuals.Settings(noises=8), seed=0)
start, goal = counterfactuals.pick(found, "wrong"), counterfactuals.pick(found, "correct")
path = counterfactuals.transition(generator, classifier, start, goal, classes=(0, 1))
```
"""

from xai_lib.counterfactuals.cases import (
    Mistake,
    class_vectors,
    features,
    find_misclassified,
    pooled_layer,
    relevance_method,
)  # fmt: skip
from xai_lib.counterfactuals.inversion import Inversion
from xai_lib.counterfactuals.search import CounterfactualError, Settings, invert
from xai_lib.counterfactuals.transitions import End, Transition, pick, transition
from xai_lib.generators import Generator, load_generator, noise

__all__ = [
    "CounterfactualError", "End", "Generator", "Inversion", "Mistake", "Settings", "Transition", "class_vectors", "features",
    "find_misclassified", "invert", "load_generator", "noise", "pick", "pooled_layer", "relevance_method", "transition",
]  # fmt: skip
