"""OpenPose: people as other nodes read them, POSE_KEYPOINT and the coloured skeletons of ControlNet's openpose."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..perception_map import PerceptionMap
from ..pose import SAME, SEEN, Person, people_of, whole_images
from ..skeletons import ANIMAL, FACE, FINGERS, OPENPOSE, SKELETONS, Skeleton, finger_names

COLOURS = (
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0)),
    *((0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255)),
    *((170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85)),
)
"""Of OpenPose's joints, and of its limbs in their order."""
LIMB_STRENGTH = 0.6
"""Limbs are drawn darker than joints."""
RADIUS = 4.0
"""Pixels of a joint, and half the thickness of a limb, in pictures whose shorter side has DRAWN_AT pixels."""
DRAWN_AT = 512
ENOUGH = 13
"""A skeleton that shares so many names with OpenPose's is a human body; four-legged animals share twelve."""
OWN = {f"{side}_{joint}" for side in ("left", "right") for joint in ("wrist", "ankle")}
"""Joints that tell a part of a human body from one of an animal, which has paws there."""
HAND_LIMBS = tuple((0 if place % 4 == 1 else place - 1, place) for place in range(1, 1 + 4 * len(FINGERS)))
EYES = ("right_eye", "left_eye")
"""OpenPose's faces have two pupils after the 68 points; what else takes poses has the body's eyes there."""
FACE_POINTS = (*(f"face_{number}" for number in range(FACE)), *EYES)
FEET = tuple(f"{side}_{part}" for side in ("left", "right") for part in ("big_toe", "small_toe", "heel"))

Joints = tuple[np.ndarray, np.ndarray]
"""(N, 2) float64 x, y in pixels, and (N,) bool: which are known."""


def is_human(skeleton: Skeleton) -> bool:
    """A human body, or a part of one: nothing but its joints, some of them its own."""
    names = {*skeleton.names}
    part = names <= {*OPENPOSE.names, *SKELETONS["wholebody-133"].names} and bool(names & OWN)
    return part or len(names & {*OPENPOSE.names}) >= ENOUGH


def _picked(person: Person, skeleton: Skeleton, names: Sequence[str], threshold: float) -> Joints:
    """Keypoints by their names; those that the skeleton lacks are not known."""
    places = {name: place for place, name in enumerate(skeleton.names)}
    there = np.array([places.get(name, -1) for name in names])
    known = (there >= 0) & person.seen(threshold)[there]
    return person.points[there] * known[:, None], known


def body(person: Person, skeleton: Skeleton, threshold: float = SEEN) -> Joints:
    """OpenPose's 18 joints; a neck that the skeleton lacks is half-way between the shoulders, if both are known."""
    points, known = _picked(person, skeleton, OPENPOSE.names, threshold)
    neck, right, left = (OPENPOSE.names.index(name) for name in ("neck", "right_shoulder", "left_shoulder"))
    if "neck" not in skeleton.names and known[right] and known[left]:
        points[neck], known[neck] = (points[right] + points[left]) / 2, True
    return points, known


def hand(person: Person, skeleton: Skeleton, side: str, threshold: float = SEEN) -> Joints:
    """21 points."""
    return _picked(person, skeleton, (f"{side}_hand_root", *finger_names(side)), threshold)


def _face(person: Person, skeleton: Skeleton, threshold: float = SEEN) -> Joints:
    """68 points and the two eyes; nothing is known where none of the 68 is, for two eyes alone are no face."""
    points, known = _picked(person, skeleton, FACE_POINTS, threshold)
    if not known[:FACE].any():
        return np.zeros_like(points), np.zeros_like(known)
    return points, known


def _feet(person: Person, skeleton: Skeleton, threshold: float = SEEN) -> Joints:
    """Big toe, small toe and heel of the left foot, then of the right."""
    return _picked(person, skeleton, FEET, threshold)


# POSE_KEYPOINT


def pose_keypoint(
    people: Sequence[Sequence[Person]], skeleton: Skeleton, size: tuple[int, int], threshold: float = SEEN
) -> list[dict[str, Any]]:
    """One dictionary for each image: x, y in pixels and 1, or 0, 0, 0, of every joint.

    What other packs ask for differs: all read numbers with 1 for what is known, some drop anything below 1, some want
    every list to be there at its full length.
    """
    return [{**listed(its, skeleton, threshold), "canvas_height": size[0], "canvas_width": size[1]} for its in people]


def listed(people: Sequence[Person], skeleton: Skeleton, threshold: float) -> dict[str, Any]:
    """People, or animals; bodies of other skeletons have no place in the format and come with their own names."""
    if skeleton.names == ANIMAL.names:
        animals = [numbers(*_picked(animal, skeleton, ANIMAL.names, threshold)) for animal in people]
        return {"version": "ap10k", "people": [], "animals": animals}
    if not is_human(skeleton):
        bodies = [numbers(*_picked(body, skeleton, skeleton.names, threshold)) for body in people]
        return {"people": [], "bodies": bodies, "keypoint_names": list(skeleton.names)}
    return {"people": [parts(person, skeleton, threshold) for person in people]}


def parts(person: Person, skeleton: Skeleton, threshold: float) -> dict[str, list[float]]:
    """Every list at its full length; feet only where the skeleton has them."""
    found = {
        "pose_keypoints_2d": numbers(*body(person, skeleton, threshold)),
        "face_keypoints_2d": _face_numbers(person, skeleton, threshold),
        "hand_left_keypoints_2d": numbers(*hand(person, skeleton, "left", threshold)),
        "hand_right_keypoints_2d": numbers(*hand(person, skeleton, "right", threshold)),
    }
    there = {*FEET} <= {*skeleton.names}
    return found | ({"foot_keypoints_2d": numbers(*_feet(person, skeleton, threshold))} if there else {})


def numbers(points: np.ndarray, known: np.ndarray) -> list[float]:
    """x, y, 1 of each, or 0, 0, 0."""
    return [float(value) for (x, y), sure in zip(points, known) for value in ((x, y, 1) if sure else (0, 0, 0))]


def _face_numbers(person: Person, skeleton: Skeleton, threshold: float) -> list[float]:
    """Of a face that is known the other points too, where they were predicted, with 0 for how sure that is.

    ComfyUI's own box around a face is that of all 70 points, and 0, 0 among them would draw it to the corner.
    """
    points, known = _face(person, skeleton, threshold)
    if not known.any():
        return numbers(points, known)
    predicted, there = _picked(person, skeleton, FACE_POINTS, threshold=-np.inf)
    predicted[~there] = points[known].mean(0)  # a skeleton may lack some
    return [float(value) for (x, y), sure in zip(predicted, known) for value in (x, y, sure)]


# Pictures


def pose_picture(
    map: PerceptionMap, threshold: float = SEEN, same: float = SAME, radius: float = 0.0
) -> tuple[Tensor, list[list[Person]]]:
    """Skeletons on black (B, H, W, 3), one picture for each image, and who is in it. radius: 0 follows the size."""
    people, crops = people_of(map, same), map.crops or whole_images(map)
    skeleton = map.convention.skeleton
    assert skeleton is not None
    return torch.stack([draw(its, skeleton, crops.size, threshold, radius) for its in people]), people


def draw(
    people: Sequence[Person], skeleton: Skeleton, size: tuple[int, int], threshold: float = SEEN, radius: float = 0.0
) -> Tensor:
    """(H, W, 3) in [0, 1]: ellipses for limbs, discs for joints, as ControlNet's openpose learnt them."""
    canvas = np.zeros((*size, 3), np.float32)
    radius = radius or max(RADIUS * min(size) / DRAWN_AT, 1.0)
    for person in people:
        if is_human(skeleton):
            _bones(canvas, *body(person, skeleton, threshold), OPENPOSE.limbs, radius)
            for side in ("left", "right"):
                _fingers(canvas, *hand(person, skeleton, side, threshold), radius)
            points, known = _face(person, skeleton, threshold)
            _dots(canvas, points[:FACE], known[:FACE], [(255, 255, 255)], radius * 0.75)
        else:
            _bones(canvas, person.points, person.seen(threshold), skeleton.limbs, radius)
    return torch.from_numpy(canvas / 255)


Colour = tuple[int, int, int]
Limbs = Sequence[tuple[int, int]]


def _bones(canvas: np.ndarray, points: np.ndarray, known: np.ndarray, limbs: Limbs, radius: float) -> None:
    """Limbs, then joints over them."""
    for number, (one, other) in enumerate(limbs):
        if known[one] and known[other]:
            colour = COLOURS[number % len(COLOURS)]
            _ellipse(canvas, points[one], points[other], radius, [int(level * LIMB_STRENGTH) for level in colour])
    _dots(canvas, points, known, COLOURS, radius)


def _fingers(canvas: np.ndarray, points: np.ndarray, known: np.ndarray, radius: float) -> None:
    """Thin lines in the colours of the rainbow, blue joints."""
    for number, (one, other) in enumerate(HAND_LIMBS):
        if known[one] and known[other]:
            rainbow = [level * 255 for level in colorsys.hsv_to_rgb(number / len(HAND_LIMBS), 1.0, 1.0)]
            line(canvas, points[one], points[other], radius / 4, rainbow)
    _dots(canvas, points, known, [(0, 0, 255)], radius)


def _dots(canvas: np.ndarray, points: np.ndarray, known: np.ndarray, colours: Sequence[Colour], radius: float) -> None:
    for number, (point, sure) in enumerate(zip(points, known)):
        if sure:
            _paint_where(canvas, point, radius, colours[number % len(colours)], lambda x, y: x**2 + y**2 <= radius**2)


def _ellipse(canvas: np.ndarray, one: np.ndarray, other: np.ndarray, radius: float, colour: Sequence[float]) -> None:
    """As long as from one point to the other."""
    half = (other - one) / 2
    length = max(float(np.hypot(*half)), 0.5)
    across, down = half / length

    def inside(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return ((x * across + y * down) / length) ** 2 + ((y * across - x * down) / radius) ** 2 <= 1

    _paint_where(canvas, (one + other) / 2, max(length, radius), colour, inside)


def line(canvas: np.ndarray, one: np.ndarray, other: np.ndarray, radius: float, colour: Sequence[float]) -> None:
    """With round ends; at least a pixel thick."""
    half = (other - one) / 2
    length, radius = max(float(np.hypot(*half)), 1e-6), max(radius, 0.5)
    across, down = half / length

    def inside(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        beyond = np.maximum(np.abs(x * across + y * down) - length, 0)
        return beyond**2 + (y * across - x * down) ** 2 <= radius**2

    _paint_where(canvas, (one + other) / 2, length + radius, colour, inside)


def _paint_where(
    canvas: np.ndarray,
    centre: np.ndarray,
    reach: float,
    colour: Sequence[float],
    inside: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> None:
    """The colour where `inside` is true of a pixel's middle, as x, y from the centre; nothing reaches further away."""
    rows, columns = (_covered(middle, reach, side) for middle, side in zip(centre[::-1], canvas.shape))
    y = np.arange(rows.start, rows.stop)[:, None] + 0.5 - centre[1]
    x = np.arange(columns.start, columns.stop) + 0.5 - centre[0]
    canvas[rows, columns][inside(x, y)] = colour


def _covered(middle: float, reach: float, side: int) -> slice:
    """The pixels of a line of `side` that lie within `reach`."""
    first, last = np.clip([np.floor(middle - reach), np.ceil(middle + reach)], 0, side).astype(int).tolist()
    return slice(first, last)
