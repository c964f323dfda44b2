"""Skeletons: what keypoints are called, which of them are joined, which change places in a mirror."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import numpy as np

from .errors import UserError

COCO_SIGMAS = (
    *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072),
    *(0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
)
"""Spread of each of COCO's 17 keypoints, per square root of area."""
USUAL_SIGMA = 0.05
"""Of keypoints for which nobody has measured it."""
SIDES = (("left", "right"), ("Left", "Right"), ("L_", "R_"), ("l_", "r_"))


@dataclass(frozen=True)
class Skeleton:
    """The keypoints of one kind of body, in order."""

    names: tuple[str, ...]
    limbs: tuple[tuple[int, int], ...] = ()
    """Which keypoints a drawing joins, by their places."""
    sigmas: tuple[float, ...] = ()
    """How far people put each keypoint apart, per square root of the body's area; empty where that is not known."""
    twins: tuple[tuple[int, int], ...] = field(default=(), compare=False)
    """Which change places in a mirror, besides those whose names say so."""

    def __post_init__(self) -> None:
        if not all(self.names) or not self.names:
            raise UserError("A skeleton needs the names of its keypoints, none of them empty.")
        doubled = [name for name in self.names if self.names.count(name) > 1]
        if doubled:
            raise UserError(f"A skeleton has {doubled[0]!r} twice: give every keypoint a name of its own.")
        if any(not 0 <= place < len(self.names) for limb in self.limbs for place in limb):
            raise UserError(f"A limb joins keypoints that the skeleton's {len(self.names)} names do not have.")

    def __len__(self) -> int:
        return len(self.names)

    def mirror(self) -> np.ndarray:
        """(K,) for each keypoint the one that it becomes in a mirror: left_x and right_x change places."""
        places = {name: place for place, name in enumerate(self.names)}
        mirrored = np.array([places.get(_other_side(name), place) for name, place in places.items()])
        for one, other in self.twins:
            mirrored[one], mirrored[other] = other, one
        return mirrored

    def spreads(self) -> tuple[float, ...]:
        """Sigmas, where they are not known the usual one."""
        return self.sigmas or (USUAL_SIGMA,) * len(self.names)

    def text(self) -> str:
        """The name of the row of SKELETONS that it is, or all names."""
        known = [name for name, row in SKELETONS.items() if row.names == self.names]
        return known[0] if known else ", ".join(self.names)

    def limbs_text(self) -> str:
        """'nose:left_eye, ...'; empty for rows of SKELETONS, which have their own."""
        if self.text() in SKELETONS:
            return ""
        return ", ".join(f"{self.names[one]}:{self.names[other]}" for one, other in self.limbs)


def _other_side(name: str) -> str:
    """'left_knee' -> 'right_knee' and back; anything else is its own mirror image."""
    for pair in SIDES:
        for side, other in (pair, pair[::-1]):
            if name.startswith(side):
                return other + name.removeprefix(side)
    return name


@cache
def skeleton_named(names: str, limbs: str = "") -> Skeleton:
    """A row of SKELETONS, or keypoints by their names with commas between them; limbs as in 'nose:left_eye, ...'.

    UserError for limbs of keypoints that are not there, and for fewer than two names that are no row.
    """
    if names in SKELETONS and not limbs:
        return SKELETONS[names]
    row = SKELETONS.get(names)
    listed = row.names if row else tuple(part.strip() for part in names.split(","))
    if len(listed) < 2:
        raise UserError(
            f"keypoints={names!r} is none of {', '.join(SKELETONS)}: name one of these, or all keypoints with commas."
        )
    pairs = [tuple(end.strip() for end in limb.split(":")) for limb in limbs.split(",") if limb.strip()]
    wrong = next((":".join(pair) for pair in pairs if len(pair) != 2 or not set(pair) <= set(listed)), "")
    if wrong:
        raise UserError(f"limbs has {wrong!r}: write two names of keypoints, as in {listed[0]}:{listed[1]}.")
    joined = tuple((listed.index(one), listed.index(other)) for one, other in pairs)
    return Skeleton(listed, joined, row.sigmas if row else (), row.twins if row else ())


def _from_limbs(names: str, limbs: str, sigmas: tuple[float, ...] = ()) -> Skeleton:
    """Names with spaces between them; limbs as places, counted from 1 as in COCO's files: '16-14 14-12'."""
    pairs = [tuple(int(place) - 1 for place in limb.split("-")) for limb in limbs.split()]
    return Skeleton(tuple(names.split()), tuple((one, other) for one, other in pairs), sigmas)


COCO = _from_limbs(
    "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist "
    "right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle",
    "16-14 14-12 17-15 15-13 12-13 6-12 7-13 6-7 6-8 7-9 8-10 9-11 2-3 1-2 1-3 2-4 3-5 4-6 5-7",
    COCO_SIGMAS,
)
OPENPOSE = _from_limbs(
    "nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist right_hip right_knee "
    "right_ankle left_hip left_knee left_ankle right_eye left_eye right_ear left_ear",
    "2-3 2-6 3-4 4-5 6-7 7-8 2-9 9-10 10-11 2-12 12-13 13-14 2-1 1-15 15-17 1-16 16-18",
)
"""In the order of OpenPose's body; limbs in the order of their colours in ControlNet's pictures."""

FACE = 68
"""Points of a face, in the order of the 300-W landmarks."""
HAND = 21
FINGERS = ("thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger")
FACE_MIRROR = (
    *range(16, -1, -1),
    *range(26, 16, -1),
    *range(27, 31),
    *range(35, 30, -1),
    *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65),
)
"""For each point of a face the one that it becomes in a mirror."""
FOOT_SIGMAS = (0.068, 0.066, 0.066, 0.092, 0.094, 0.094)
FACE_SIGMAS = (
    *(0.042, 0.043, 0.044, 0.043, 0.040, 0.035, 0.031, 0.025, 0.020, 0.023, 0.029, 0.032, 0.037, 0.038, 0.043, 0.041),
    *(0.045, 0.013, 0.012, 0.011, 0.011, 0.012, 0.012, 0.011, 0.011, 0.013, 0.015, 0.009, 0.007, 0.007, 0.007, 0.012),
    *(0.009, 0.008, 0.016, 0.010, 0.017, 0.011, 0.009, 0.011, 0.009, 0.007, 0.013, 0.008, 0.011, 0.012, 0.010, 0.034),
    *(0.008, 0.008, 0.009, 0.008, 0.008, 0.007, 0.010, 0.008, 0.009, 0.009, 0.009, 0.007, 0.007, 0.008, 0.011, 0.008),
    *(0.008, 0.008, 0.010, 0.008),
)
HAND_SIGMAS = (
    *(0.029, 0.022, 0.035, 0.037, 0.047, 0.026, 0.025, 0.024, 0.035, 0.018, 0.024),
    *(0.022, 0.026, 0.017, 0.021, 0.021, 0.032, 0.020, 0.019, 0.022, 0.031),
)


def _wholebody() -> Skeleton:
    """COCO-WholeBody's 133 keypoints: the body, six of the feet, a face, two hands (Jin et al. 2020)."""
    feet = [f"{side}_{part}" for side in ("left", "right") for part in ("big_toe", "small_toe", "heel")]
    face = [f"face_{number}" for number in range(FACE)]
    hands = [[f"{side}_hand_root", *finger_names(side)] for side in ("left", "right")]
    first = len(COCO) + len(feet)
    hand_limbs = [
        (first + FACE + HAND * number + one, first + FACE + HAND * number + other)
        for number in range(2)
        for one, other in ((0 if place % 4 == 1 else place - 1, place) for place in range(1, HAND))
    ]
    places = {name: place for place, name in enumerate((*COCO.names, *feet))}
    foot_limbs = [(places[f"{name.split('_')[0]}_ankle"], places[name]) for name in feet]
    return Skeleton(
        (*COCO.names, *feet, *face, *hands[0], *hands[1]),
        (*COCO.limbs, *foot_limbs, *hand_limbs),
        (*COCO_SIGMAS, *FOOT_SIGMAS, *FACE_SIGMAS, *HAND_SIGMAS, *HAND_SIGMAS),
        tuple((first + one, first + other) for one, other in enumerate(FACE_MIRROR) if one < other),
    )


def finger_names(side: str) -> list[str]:
    return [f"{side}_{finger}{joint}" for finger in FINGERS for joint in range(1, 5)]


ANIMAL = _from_limbs(
    "left_eye right_eye nose neck tail left_shoulder left_elbow left_front_paw right_shoulder right_elbow "
    "right_front_paw left_hip left_knee left_back_paw right_hip right_knee right_back_paw",
    "1-2 2-3 1-3 3-4 4-9 9-10 10-11 4-6 6-7 7-8 4-5 5-15 15-16 16-17 5-12 12-13 13-14",
)
"""AP-10K's 17 keypoints of four-legged animals (Yu et al. 2021); `tail` is its root."""

SKELETONS: dict[str, Skeleton] = {
    "coco-17": COCO,
    "openpose-18": OPENPOSE,
    "wholebody-133": _wholebody(),
    "ap10k-17": ANIMAL,
}
"""Skeletons that have a name."""
USUAL = "coco-17"
