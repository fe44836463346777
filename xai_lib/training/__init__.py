"""Training of small heads and whole networks: epochs that can be cut off, selection that can be seen.

```python
classifier = training.with_head(classifiers.load("efficientnet_lite0"), ("glioma", "meningioma", "none", "pituitary"))
sets = {name: training.Samples(training.features(classifier, images[name]), labels[name]) for name in ("train", "validation")}
found = training.fit_head(classifier, sets, training.Recipe(learning_rate=1e-3, epochs=40))
training.save(classifier, "head.safetensors")      # classifiers.load("head.safetensors")
```
"""

from xai_lib.training.loop import Recipe, Samples, Scores, Training, TrainingError, evaluate, train
from xai_lib.training.transfer import features, fit_head, load, samples, save, with_head

__all__ = [
    "Recipe", "Samples", "Scores", "Training", "TrainingError", "evaluate", "features", "fit_head", "load", "samples", "save",
    "train", "with_head",
]  # fmt: skip
