"""Human correction efforts: how many points and strokes it takes to mend a mask by hand (Qin et al. 2022, DIS5K)."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from ..core.measure.metrics import Metric, by_pictures, on_background

Mask = np.ndarray
"""(H, W) bool."""

RELAX = 5
"""Pixels by which errors along an edge are forgiven: gamma in the papers' tables."""
TOLERANCE_PX = 2.0
"""How far a polygon may leave the edge that it stands for."""
CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
"""What a mask grows and shrinks by."""


@by_pictures
def _human_corrections(p: np.ndarray, y: np.ndarray, valid: np.ndarray) -> float:
    """Points of polygons around what is wrong, and regions to be clicked at, of masks (H, W) in [0, 1]; a count.

    The prediction is stretched to [0, 1] as the other metrics of masks do it, and cut at 0.5. What is not valid is
    background in both.
    """
    mask, truth = on_background(p, y, valid)
    found = mask > 0.5
    both, either = truth & found, truth | found
    surplus, lack = found & ~both, truth & ~both
    core = _eroded(either, RELAX)
    wrong = surplus & _grown_within(surplus & core, ~truth)
    thin = skeleton(truth)
    missing = (lack & _grown_within(lack & core, ~found)) | (thin & ~both)
    return _efforts(wrong, both | missing) + _efforts(missing, ~(both | wrong | missing))


def _grown_within(mask: Mask, room: Mask) -> Mask:
    """A mask that grows RELAX times, inside `room` only."""
    for _ in range(RELAX):
        mask = _dilated(mask) & room
    return mask


def _dilated(mask: Mask) -> Mask:
    return cv2.dilate(mask.astype(np.uint8), CROSS).astype(bool)


def _eroded(mask: Mask, times: int) -> Mask:
    return cv2.erode(mask.astype(np.uint8), CROSS, iterations=times).astype(bool)


def _efforts(errors: Mask, beside: Mask) -> float:
    """Control points of the edges that errors share with `beside`, and a click for every region that shares none."""
    if not errors.any():
        return 0.0
    edges, _ = cv2.findContours(errors.astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_NONE)
    shared, seen = _dilated(beside), np.zeros(errors.shape, bool)
    pieces = [piece for edge in edges for piece in closed(list(runs(edge[:, 0], shared, seen)))]
    _, regions = cv2.connectedComponents(errors.astype(np.uint8), connectivity=8)
    clicked = len(set(np.unique(regions)) - set(np.unique(regions[seen])) - {0})
    return float(clicked + sum(len(cv2.approxPolyDP(piece, TOLERANCE_PX, False)) for piece in pieces))


def runs(edge: np.ndarray, shared: Mask, seen: Mask) -> Iterator[np.ndarray]:
    """Stretches (N, 2) of an edge (M, 2) of x, y where it is shared; no pixel belongs to two, which `seen` keeps."""
    stretch = []
    for x, y in edge:
        if shared[y, x] and not seen[y, x]:
            stretch.append((x, y))
            seen[y, x] = True
        elif stretch:
            yield np.array(stretch, np.int32)
            stretch = []
    if stretch:
        yield np.array(stretch, np.int32)


def closed(stretches: list[np.ndarray]) -> list[np.ndarray]:
    """A first and a last stretch that touch are one: the published code turns the first round and puts it behind."""
    if len(stretches) > 1 and np.abs(stretches[0][0] - stretches[-1][-1]).max() == 1:
        first, *between, last = stretches
        return [*between, np.concatenate([last, first[::-1]])]
    return stretches


def skeleton(mask: Mask) -> Mask:
    """A mask thinned to lines a pixel wide, by scikit-image as in the published code: what goes is its table's."""
    from skimage.morphology import skeletonize

    return skeletonize(mask).astype(bool)


HCE = Metric("hce", "HCE", _human_corrections, False, 0)
