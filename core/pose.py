"""Pose: crops of people -> heatmaps -> keypoints in pixels, the same person once.

Coordinates are continuous: the first pixel, or the first cell of a heatmap, reaches from 0 to 1. Scaling, cropping and
mirroring are then exact, which is what UDP (Huang et al. 2020) asks of a pose estimator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .crops import CROPS, PADDING, Box, inside, whole_image
from .diffusion import Tick
from .errors import UserError
from .heatmaps import DECODINGS
from .image import fit
from .perception_map import Crops, PerceptionMap
from .pipeline import Perceiver, check_image, decode
from .recipe import Recipe
from .skeletons import Skeleton

FOUND = 0.2
"""Keypoints that rise above this count in the score of a person."""
SEEN = 0.3
"""Keypoints that do not are not shown."""
SAME = 0.9
"""People who are more alike than this are one."""


@dataclass(frozen=True)
class Person:
    """One person in one image."""

    points: np.ndarray
    """(K, 2) float64: x, y in pixels of the image."""
    scores: np.ndarray
    """(K,) float64: how high each heatmap rises."""
    score: float
    area: float
    """Of the crop that the person was seen in, padding included, in pixels of the image: OKS-NMS goes by it in
    SimpleBaseline, HRNet and MMPose."""

    def seen(self, threshold: float = SEEN) -> np.ndarray:
        """(K,) bool."""
        return self.scores >= threshold


# Pictures to heatmaps


def crop_size(recipe: Recipe) -> tuple[int, int]:
    """(H, W) of the crop that the recipe's network was trained on."""
    longest = recipe.resolution or 256
    tall, wide = (1.0, recipe.aspect) if recipe.aspect <= 1 else (1 / recipe.aspect, 1.0)
    return max(round(longest * tall / 8), 4) * 8, max(round(longest * wide / 8), 4) * 8


def predict_people(
    perceiver: Perceiver,
    images: Tensor,
    boxes: Sequence[Sequence[Box]] | None = None,
    *,
    padding: float = PADDING,
    flip_test: bool = False,
    batch_size: int = 8,
    tick: Tick = lambda: None,
) -> PerceptionMap:
    """Images (B, 3, H, W) in [0, 1] and the boxes of people in each -> their heatmaps, one entry a person.

    Without boxes each image is one person, and not padded. flip_test: the mean of what the network sees in a crop and
    in its mirror image. batch_size: people per pass of the networks. tick: called passes_of_people() times.
    UserError for boxes outside the images, and for recipes of other tasks.
    """
    check_image(images)
    skeleton, rule = _skeleton_of(perceiver.recipe), CROPS[perceiver.recipe.crop]
    size, wanted = (images.shape[-2], images.shape[-1]), crop_size(perceiver.recipe)
    if boxes is None:
        boxes, padding = [[whole_image(size)]] * len(images), 1.0
    placed = [(number, inside(box, size)) for number, its in enumerate(boxes) for box in its]
    windows = np.array([rule.window(box, wanted, padding) for _, box in placed]).reshape(-1, 4)
    seen = [torch.zeros(0, len(skeleton), wanted[0] // 4, wanted[1] // 4)]
    for start in range(0, len(placed), batch_size):
        chunk = slice(start, start + batch_size)
        crops = torch.stack(
            [rule.cut(images[number], window, wanted) for (number, _), window in zip(placed[chunk], windows[chunk])]
        )
        heatmaps = heatmaps_of(perceiver, crops, tick)
        if flip_test:
            mirrored = heatmaps_of(perceiver, crops.flip(-1), tick).flip(-1)
            heatmaps = (heatmaps + mirrored[:, torch.from_numpy(skeleton.mirror())]) / 2
        seen.append(heatmaps)
    return PerceptionMap(
        task=perceiver.recipe.row.name,
        values=torch.cat(seen).movedim(1, -1).contiguous(),
        convention=perceiver.recipe.convention(),
        recipe=perceiver.recipe.id,
        crops=Crops(
            size, len(images), tuple(number for number, _ in placed), torch.from_numpy(windows),
            tuple(box.score for _, box in placed),
        ),
    )  # fmt: skip


def _skeleton_of(recipe: Recipe) -> Skeleton:
    """What the recipe's heatmaps show. UserError for recipes of other tasks."""
    if recipe.row.per != "person":
        raise UserError(f"{recipe.id} predicts {recipe.row.name}, no keypoints: load a model of keypoints.")
    return recipe.skeleton


def heatmaps_of(perceiver: Perceiver, crops: Tensor, tick: Tick) -> Tensor:
    """Crops (N, 3, h, w) in [0, 1] -> (N, K, h / 4, w / 4), on the CPU."""
    picture, _ = fit(crops.contiguous() * 2 - 1, 0, perceiver.recipe.rule)
    latent = perceiver.needs_autoencoder().encode(picture)
    tick()
    codec = perceiver.recipe.target_codec()
    heatmaps = codec.finish(codec.decode(decode(perceiver, latent, None, tick)))
    return heatmaps.float().cpu()


def passes_of_people(people: int, batch_size: int, flip_test: bool) -> int:
    """How often predict_people() ticks."""
    return -(-people // batch_size) * 2 * (1 + flip_test)


# Keypoints to people


def people_of(map: PerceptionMap, same: float = SAME) -> list[list[Person]]:
    """The people of each image, the surest first; of two who are more alike than `same` only one. UserError for maps
    of other tasks."""
    skeleton = map.convention.skeleton
    if skeleton is None:
        raise UserError(f"A map of {map.task} came where keypoints are expected: load a model of keypoints.")
    if map.values.shape[-1] != len(skeleton):
        raise UserError(f"The map has {map.values.shape[-1]} heatmaps for {len(skeleton)} keypoints: mend its recipe.")
    crops = map.crops or whole_images(map)
    found: list[list[Person]] = [[] for _ in range(crops.count)]
    if len(map.values):
        heatmaps = map.values.detach().float().cpu().nan_to_num().movedim(-1, 1)
        points, scores = (part.numpy() for part in DECODINGS[map.convention.decoding](heatmaps))
        cells = np.array(map.values.shape[1:3][::-1])
        for number, window, sure, its_points, its_scores in zip(
            crops.images, crops.windows.numpy(), crops.scores, points, scores
        ):
            placed = window[:2] + its_points * (window[2:] / cells)
            area = float(window[2] * window[3])
            found[number].append(Person(placed, its_scores, sure * _mean_found(its_scores), area))
    return [suppressed(people, skeleton, same) for people in found]


def whole_images(map: PerceptionMap) -> Crops:
    """Every entry is an image."""
    count, height, width = map.values.shape[:3]
    windows = torch.tensor([[0.0, 0.0, width, height]] * count, dtype=torch.float64).reshape(-1, 4)
    return Crops((height, width), count, tuple(range(count)), windows, (1.0,) * count)


def _mean_found(scores: np.ndarray) -> float:
    """Over the keypoints that were found at all."""
    found = scores[scores > FOUND]
    return float(found.mean()) if found.size else 0.0


def suppressed(people: Sequence[Person], skeleton: Skeleton, same: float = SAME) -> list[Person]:
    """OKS-NMS: the surest person stays, whoever is more similar to one that stays than `same` goes."""
    kept: list[Person] = []
    for person in sorted(people, key=lambda person: -person.score):
        if all(similarity(person, other, skeleton) <= same for other in kept):
            kept.append(person)
    return kept


def similarity(one: Person, other: Person, skeleton: Skeleton) -> float:
    """COCO's object keypoint similarity of two predictions, over all keypoints and the mean of their areas."""
    spreads = 2 * np.array(skeleton.spreads())
    distance = ((one.points - other.points) ** 2).sum(1)
    return float(np.exp(-distance / (2 * (one.area + other.area) / 2 * spreads**2)).mean())
