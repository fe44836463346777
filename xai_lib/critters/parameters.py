"""The named numbers of a critter: their units and ranges, how each class spreads over them, and how they are drawn at random.

Every class is a cloud in one space, and the clouds overlap: a bear may have a poodle's neck. All numbers are our choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

Group = Literal["animal", "bottle", "coat", "pose", "light"]


@dataclass(frozen=True)
class Parameter:
    """One number: the family or stage that it belongs to, its range, and what it means with its unit."""

    group: Group
    low: float
    high: float
    meaning: str


PARAMETERS: dict[str, Parameter] = {
    # lengths of animals in head radii, those of bottles in heights of the bottle, where nothing else is said
    "head_width": Parameter("animal", 0.8, 1.25, "width over height of the head"),
    "ear_length": Parameter("animal", 0.05, 1.7, "from where the ear grows to its tip"),
    "ear_width": Parameter("animal", 0.1, 0.45, "half width of the ear where it grows"),
    "ear_angle": Parameter("animal", 5.0, 170.0, "where the ear points: degrees from upright; 90 sideways, 180 hanging"),
    "ear_point": Parameter("animal", -0.4, 1.0, "1 pointed, 0 as wide at the tip as below, negative widening"),
    "eye_size": Parameter("animal", 0.06, 0.36, "radius of the eye"),
    "eye_gap": Parameter("animal", 0.25, 0.55, "half the distance of the eyes, in half widths of the head"),
    "snout_length": Parameter("animal", 0.0, 1.0, "how far the snout reaches down"),
    "snout_width": Parameter("animal", 0.1, 0.6, "half width of the snout"),
    "beak": Parameter("animal", 0.0, 1.0, "size of the beak; the nose shrinks as it grows"),
    "face_disc": Parameter("animal", 0.0, 1.0, "radius of the bare or pale face"),
    "face_tone": Parameter("animal", -1.0, 1.0, "the face against the fur: -1 dark with a pale rim, 1 pale with a dark rim"),
    "topknot": Parameter("animal", 0.0, 1.0, "size of the tuft on the crown"),
    "neck_width": Parameter("animal", 0.25, 1.15, "half width of the neck, in half widths of the head"),
    "neck_length": Parameter("animal", 0.0, 0.9, "from the head to the shoulders"),
    "body_width": Parameter("animal", 0.8, 2.2, "half width of the body"),
    "fur_length": Parameter("animal", 0.02, 0.2, "how far the outline is frayed"),
    "fur_curl": Parameter("animal", 0.0, 1.0, "0 straight hair, 1 curls"),
    "bottle_width": Parameter("bottle", 0.11, 0.25, "half width of the body"),
    "bottle_neck_width": Parameter("bottle", 0.2, 0.75, "half width of the neck, in half widths of the body"),
    "bottle_neck_length": Parameter("bottle", 0.03, 0.42, "from the cap to where the shoulder begins"),
    "shoulder_length": Parameter("bottle", 0.05, 0.48, "from the neck to the full width"),
    "shoulder_round": Parameter("bottle", 0.0, 1.0, "0 a straight taper, 1 a round shoulder"),
    "waist": Parameter("bottle", 0.0, 0.25, "how much narrower the body is in its middle, in half widths"),
    "cap_height": Parameter("bottle", 0.02, 0.09, "height of the cap"),
    "label_height": Parameter("bottle", 0.08, 0.34, "height of the label"),
    "label_place": Parameter("bottle", 0.62, 0.8, "middle of the label, from the top"),
    "highlight": Parameter("bottle", 0.0, 1.0, "strength of the reflection"),
    "fill": Parameter("bottle", 0.0, 1.0, "0 empty, 1 full up to the cap"),
    "hue": Parameter("coat", 0.0, 360.0, "hue of fur or glass, degrees"),
    "saturation": Parameter("coat", 0.0, 1.0, "saturation of fur or glass"),
    "value": Parameter("coat", 0.0, 1.0, "brightness of fur or glass"),
    "accent": Parameter("coat", 0.0, 360.0, "hue of label and cap, or of the eyes, degrees"),
    "shift_x": Parameter("pose", -0.5, 0.5, "to the right, half sides of the picture"),
    "shift_y": Parameter("pose", -0.4, 0.4, "down, half sides of the picture"),
    "scale": Parameter("pose", 0.6, 1.4, "size, 1 as a rule"),
    "tilt": Parameter("pose", -30.0, 30.0, "degrees, clockwise"),
    "turn": Parameter("pose", -1.0, 1.0, "the face to the left or right; 1 is about 40 degrees; no effect on bottles"),
    "leaf_size": Parameter("pose", 0.0, 0.4, "leaves in front, half sides; 0 none"),
    "leaf_x": Parameter("pose", -1.0, 1.0, "where the leaves are, from left to right"),
    "leaf_y": Parameter("pose", -1.0, 1.0, "where the leaves are, from top to bottom"),
    "light_angle": Parameter("light", -80.0, 80.0, "where light comes from, degrees from above, positive from the right"),
    "contrast": Parameter("light", 0.0, 0.8, "share of directed light"),
    "exposure": Parameter("light", 0.6, 1.4, "factor on all intensities"),
    "warmth": Parameter("light", -0.15, 0.15, "red gains what blue loses, a share"),
    "grain": Parameter("light", 0.0, 0.06, "standard deviation of the noise of pixels, 0..1"),
}
NAMES = tuple(PARAMETERS)
"""The columns of `Batch.parameters`."""

_PARTS = (
    ("ear_", "ears"), ("eye_", "eyes"), ("snout_", "snout"), ("beak", "beak"), ("face_", "face"), ("topknot", "topknot"),
    ("neck_", "neck"), ("body_width", "body"), ("head_width", "head"),
    ("bottle_neck_", "bottle_neck"), ("shoulder_", "shoulder"), ("cap_", "cap"), ("label_", "label"),
    ("highlight", "highlight"), ("bottle_width", "glass"), ("waist", "glass"), ("fill", "glass"),
)  # fmt: skip
PART_OF = {name: part for name in PARAMETERS for start, part in _PARTS if name.startswith(start)}
"""The part of the picture that a number of the shape changes; those of fur, coat, pose and light change no single one."""

Spread = dict[str, tuple[float, float]]
_ANIMAL: Spread = {
    "head_width": (1.0, 0.06), "ear_length": (0.4, 0.128), "ear_width": (0.25, 0.043), "ear_angle": (45, 13),
    "ear_point": (0.2, 0.17),
    "eye_size": (0.11, 0.017), "eye_gap": (0.4, 0.03), "snout_length": (0.35, 0.128), "snout_width": (0.32, 0.051),
    "beak": (0.05, 0.043), "face_disc": (0.25, 0.128), "face_tone": (0.1, 0.17), "topknot": (0.15, 0.102),
    "neck_width": (0.7, 0.093),
    "neck_length": (0.3, 0.102), "body_width": (1.4, 0.153), "fur_length": (0.08, 0.025), "fur_curl": (0.3, 0.145),
}  # fmt: skip
_BOTTLE: Spread = {
    "bottle_width": (0.165, 0.015), "bottle_neck_width": (0.4, 0.051), "bottle_neck_length": (0.2, 0.043), "waist": (0.05, 0.025),
    "shoulder_length": (0.2, 0.051), "shoulder_round": (0.5, 0.17), "cap_height": (0.045, 0.009), "label_height": (0.2, 0.043),
    "label_place": (0.71, 0.025), "highlight": (0.5, 0.17), "fill": (0.7, 0.17),
}  # fmt: skip
SPREADS: dict[str, Spread] = {
    "brown_bear": _ANIMAL | {
        "head_width": (1.06, 0.06), "ear_length": (0.3, 0.085), "ear_width": (0.27, 0.034), "ear_angle": (47, 17),
        "ear_point": (0, 0.145),
        "snout_width": (0.4, 0.06), "neck_width": (0.88, 0.119), "neck_length": (0.22, 0.111), "body_width": (1.75, 0.187),
        "fur_curl": (0.25, 0.153),
    },
    "standard_poodle": _ANIMAL | {
        "head_width": (0.94, 0.06), "ear_length": (0.78, 0.221), "ear_width": (0.25, 0.043), "ear_angle": (118, 27),
        "ear_point": (-0.17, 0.136), "snout_length": (0.6, 0.145), "snout_width": (0.28, 0.051), "topknot": (0.6, 0.187),
        "neck_width": (0.57, 0.119), "neck_length": (0.42, 0.119), "body_width": (1.35, 0.187), "fur_length": (0.12, 0.025),
        "fur_curl": (0.75, 0.17),
    },
    "gibbon": _ANIMAL | {
        "head_width": (1.02, 0.06), "ear_length": (0.14, 0.076), "ear_width": (0.2, 0.043), "ear_angle": (82, 19),
        "eye_size": (0.125, 0.021),
        "snout_length": (0.15, 0.102), "snout_width": (0.34, 0.06), "face_disc": (0.72, 0.153), "face_tone": (-0.62, 0.255),
        "neck_width": (0.7, 0.111), "body_width": (1.5, 0.17),
    },
    "owl": _ANIMAL | {
        "head_width": (1.08, 0.06), "ear_length": (0.4, 0.17), "ear_width": (0.2, 0.043), "ear_angle": (42, 13),
        "ear_point": (0.75, 0.17),
        "eye_size": (0.23, 0.043), "eye_gap": (0.43, 0.034), "snout_length": (0.06, 0.051), "snout_width": (0.2, 0.051),
        "beak": (0.6, 0.17), "face_disc": (0.6, 0.17), "face_tone": (0.45, 0.255), "neck_width": (0.92, 0.085),
        "neck_length": (0.08, 0.06), "body_width": (1.25, 0.128), "topknot": (0.08, 0.068),
    },
    "fox": _ANIMAL | {
        "head_width": (1.06, 0.06), "ear_length": (0.62, 0.145), "ear_width": (0.37, 0.043), "ear_angle": (33, 10),
        "ear_point": (0.85, 0.128),
        "snout_length": (0.62, 0.136), "snout_width": (0.24, 0.043), "face_disc": (0.5, 0.17), "face_tone": (0.4, 0.255),
        "neck_width": (0.66, 0.102), "body_width": (1.25, 0.153), "topknot": (0.08, 0.068), "fur_curl": (0.15, 0.102),
    },
    "rabbit": _ANIMAL | {
        "head_width": (0.96, 0.06), "ear_length": (1.15, 0.187), "ear_width": (0.25, 0.034), "ear_angle": (20, 10),
        "ear_point": (0.1, 0.17),
        "eye_size": (0.14, 0.021), "eye_gap": (0.46, 0.03), "snout_length": (0.15, 0.085), "snout_width": (0.28, 0.051),
        "neck_width": (0.7, 0.102), "body_width": (1.2, 0.153), "topknot": (0.08, 0.068),
    },
    "beer_bottle": _BOTTLE | {
        "bottle_width": (0.15, 0.015), "bottle_neck_width": (0.38, 0.051), "bottle_neck_length": (0.26, 0.051),
        "shoulder_length": (0.12, 0.043), "shoulder_round": (0.78, 0.153), "waist": (0.02, 0.025), "cap_height": (0.035, 0.008),
        "highlight": (0.65, 0.17),
    },
    "pop_bottle": _BOTTLE | {
        "bottle_width": (0.185, 0.015), "bottle_neck_width": (0.47, 0.06), "bottle_neck_length": (0.11, 0.043),
        "shoulder_length": (0.32, 0.06), "shoulder_round": (0.28, 0.153), "waist": (0.1, 0.043), "cap_height": (0.055, 0.009),
        "highlight": (0.4, 0.17),
    },
}  # fmt: skip
"""Mean and standard deviation of each parameter of each class, before it is cut to two deviations and to its range."""
RIVALS = {
    "brown_bear": ("standard_poodle", "gibbon"), "standard_poodle": ("brown_bear",), "gibbon": ("brown_bear",),
    "beer_bottle": ("pop_bottle",), "pop_bottle": ("beer_bottle",),
    "owl": ("gibbon",), "fox": ("rabbit",), "rabbit": ("fox",),
}  # fmt: skip
"""With whom a class is taken for: the first five are the confusions of the paper."""
STRAY = 0.02  #: chance that a parameter is drawn from the rival's spread
HYBRIDS = 0.05  #: share of pictures in which that chance is `CROSSED`: those that a classifier may well get wrong
CROSSED = 0.42

# Coats of all animals, glass of all bottles: hue, saturation, value. None belongs to a class.
_FUR = (
    (28, 0.5, 0.45), (22, 0.45, 0.25), (35, 0.3, 0.75), (25, 0.65, 0.65), (30, 0.08, 0.85), (220, 0.06, 0.5), (20, 0.15, 0.16),
)  # fmt: skip
_GLASS = ((25, 0.75, 0.42), (30, 0.7, 0.6), (115, 0.55, 0.4), (95, 0.4, 0.55), (160, 0.15, 0.8), (200, 0.3, 0.7), (15, 0.7, 0.22))


def random_parameters(kind: str, shape: np.random.Generator, rest: np.random.Generator) -> dict[str, float]:
    """The numbers of one critter, those of its family only: the shape from the class's spread, all others alike for all."""
    spread, rivals = SPREADS[kind], RIVALS[kind]
    n = len(spread)
    rival = SPREADS[rivals[int(shape.integers(len(rivals)))]]
    stray = shape.random(n) < (CROSSED if shape.random() < HYBRIDS else STRAY)
    found = {}
    for name, strays, normal in zip(spread, stray.tolist(), shape.standard_normal(n).clip(-2, 2).tolist(), strict=True):
        mean, deviation = rival[name] if strays else spread[name]
        found[name] = mean + deviation * normal
    coats = _FUR if "ear_length" in spread else _GLASS
    hue, saturation, value = coats[int(rest.integers(len(coats)))]
    wander, even = rest.standard_normal(8).clip(-2, 2).tolist(), rest.random(10).tolist()
    found |= {
        "hue": (hue + 5 * wander[0]) % 360, "saturation": saturation * (1 + 0.15 * wander[1]),
        "value": value * (1 + 0.12 * wander[2]), "accent": 360 * even[0],
        "shift_x": 0.12 * wander[3], "shift_y": 0.05 * wander[4], "scale": 1 + 0.08 * wander[5],
        "tilt": 5 * wander[6], "turn": 0.45 * wander[7],
        "leaf_size": 0.16 + 0.14 * even[1] if even[2] < 0.25 else 0.0,
        "leaf_x": 1.4 * even[3] - 0.7, "leaf_y": 1.5 * even[4] - 0.9,
        "light_angle": 130 * even[5] - 65, "contrast": 0.3 + 0.35 * even[6], "exposure": 0.85 + 0.3 * even[7],
        "warmth": 0.16 * even[8] - 0.08, "grain": 0.005 + 0.02 * even[9],
    }  # fmt: skip
    return {name: min(max(found[name], p.low), p.high) for name, p in PARAMETERS.items() if name in found}


def row(numbers: Mapping[str, float]) -> np.ndarray:
    """`(P,)` float32 in the order of `NAMES`, NaN where a family has no such number."""
    return np.array([numbers.get(name, np.nan) for name in NAMES], np.float32)
