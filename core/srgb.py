"""The sRGB curve, from linear light and back."""

from __future__ import annotations

import numpy as np


def to_srgb(linear: np.ndarray) -> np.ndarray:
    """Linear light to the sRGB curve, both in [0, 1]."""
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)


def to_linear(srgb: np.ndarray) -> np.ndarray:
    """The sRGB curve undone."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
