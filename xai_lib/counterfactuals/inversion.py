"""What a search found: pictures with their noises, cosines and classes; it can be kept as JSON."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Inversion:
    """The result of `invert` for one picture; `N` searches, all noises of the first class vector first.

    `z`: `(N, z_dim)`, the best seen. `cosines`: `(N,)`, its similarity. `curves`: `(N, updates + 1)`, similarity before each
    update and after the last; where a search stopped early, the last value goes on. `updates`: `(N,)`, how many ran. `kinds`:
    the class vector of each. `vectors`: `(N, classes)`. `probabilities`: `(N, classes)` of the classifier. `pictures`:
    `(N, 3, S, S)` uint8. `true`, `predicted`: the classes "correct" and "wrong"; `true` is -1 where no vector of the correct
    class was given.
    """

    z: Tensor = field(repr=False)
    cosines: Tensor = field(repr=False)
    curves: Tensor = field(repr=False)
    updates: Tensor = field(repr=False)
    vectors: Tensor = field(repr=False)
    probabilities: Tensor = field(repr=False)
    pictures: Tensor = field(repr=False)
    kinds: tuple[str, ...] = field(repr=False)
    true: int
    predicted: int
    seconds: float

    @property
    def images(self) -> Tensor:
        """The pictures, `(N, 3, S, S)` float32 in 0..1."""
        return self.pictures.float() / 255

    @property
    def verdicts(self) -> list[str]:
        """What each picture is taken for: "correct", "wrong" or "other"."""
        said = {self.true: "correct", self.predicted: "wrong"}
        return [said.get(c, "other") for c in self.probabilities.argmax(1).tolist()]

    @property
    def updates_run(self) -> int:
        """The most updates that any of the searches ran."""
        return int(self.updates.max())

    def table(self, case: str) -> pd.DataFrame:
        """A row a class vector: cosines, and the shares of pictures taken for the correct, the wrong and another class."""
        rows = []
        for kind in dict.fromkeys(self.kinds):
            at = [i for i, k in enumerate(self.kinds) if k == kind]
            verdicts = [self.verdicts[i] for i in at]
            shares = {f"share_{v}": verdicts.count(v) / len(at) for v in ("correct", "wrong", "other")}
            rows.append({
                "case": case, "class_vector": kind, "noises": len(at), "cosine_mean": float(self.cosines[at].mean()),
                "cosine_best": float(self.cosines[at].max()), **shares, "seconds_per_image": self.seconds / len(self.kinds),
            })  # fmt: skip
        return pd.DataFrame(rows)

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it; `from_dict` has it back, bit by bit."""
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: _packed(value) if isinstance(value, Tensor) else value for name, value in held.items()}

    @classmethod
    def from_dict(cls, held: dict[str, Any]) -> Inversion:
        """The inversion that `as_dict` wrote."""
        found = {name: _unpacked(value) if isinstance(value, dict) else value for name, value in held.items()}
        return cls(**found | {"kinds": tuple(found["kinds"])})


def _packed(values: Tensor) -> dict[str, Any]:
    array = values.cpu().numpy()
    content = base64.b64encode(zlib.compress(array.tobytes(), 6)).decode()
    return {"dtype": str(array.dtype), "shape": list(array.shape), "zlib": content}


def _unpacked(held: dict[str, Any]) -> Tensor:
    array = np.frombuffer(zlib.decompress(base64.b64decode(held["zlib"])), held["dtype"]).reshape(held["shape"])
    return torch.from_numpy(array.copy())
