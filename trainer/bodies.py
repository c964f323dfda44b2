"""Bodies: parametric people in painted clothes, with their COCO joints known exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .meshes import Part


@dataclass(frozen=True)
class Body:
    """One posed person, feet on the origin, looking to +z."""

    parts: list[Part]
    joints: np.ndarray
    """(17, 3) metres, COCO order."""
