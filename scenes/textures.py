"""Procedural surface colours for rendered rooms: seeded, tileable, made without any picture file."""

from __future__ import annotations

import colorsys
import functools
from collections.abc import Callable

import numpy as np

SIZE = 512

Painter = Callable[[np.random.Generator, tuple[float, float, float]], np.ndarray]


@functools.lru_cache(maxsize=64)
def paint(kind: str, seed: int) -> np.ndarray:
    """A tileable sRGB picture (512, 512, 3) uint8 of the kind of material."""
    rng = np.random.default_rng([seed, sorted(PAINTERS).index(kind)])
    painter, colours = PAINTERS[kind]
    picture = painter(rng, _pick_colour(rng, colours))
    return (np.clip(picture, 0.09, 0.95) * 255 + 0.5).astype(np.uint8)


def _fractal(rng: np.random.Generator, slope: float, stretch: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """Periodic noise (512, 512) of mean 0 and deviation 1 whose spectrum falls as frequency ** -slope."""
    fy = np.fft.fftfreq(SIZE)[:, None] * SIZE * stretch[0]
    fx = np.fft.rfftfreq(SIZE)[None] * SIZE * stretch[1]
    radius = np.hypot(fy, fx)
    radius[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((SIZE, SIZE))) * radius**-slope
    field = np.fft.irfft2(spectrum, (SIZE, SIZE))
    return field / field.std()


def _pick_colour(rng: np.random.Generator, span: tuple[tuple[float, float], ...]) -> tuple[float, float, float]:
    """An sRGB colour with hue, saturation and value drawn from the three spans."""
    hue, saturation, value = (rng.uniform(*ends) for ends in span)
    return colorsys.hsv_to_rgb(hue % 1.0, saturation, value)


def _tint(colour: tuple[float, float, float], gain: np.ndarray) -> np.ndarray:
    return np.asarray(colour)[None, None] * gain[..., None]


def _plaster(rng: np.random.Generator, colour: tuple[float, float, float]) -> np.ndarray:
    return _tint(colour, 1 + 0.03 * _fractal(rng, 1.5) + rng.uniform(0, 0.04) * _fractal(rng, 0.3))


def _stripes(rng: np.random.Generator, colour: tuple[float, float, float]) -> np.ndarray:
    count, second = rng.integers(4, 17), _pick_colour(rng, PALE)
    wave = (np.arange(SIZE) * count / SIZE) % 1.0 < rng.uniform(0.3, 0.7)
    return _plaster(rng, colour) * np.where(wave[None, :, None], 1.0, np.asarray(second) * rng.uniform(0.7, 1.0))


def _dots(rng: np.random.Generator, colour: tuple[float, float, float]) -> np.ndarray:
    count, radius = rng.integers(4, 13), rng.uniform(0.15, 0.4)
    y, x = np.meshgrid(*(np.arange(SIZE) * count / SIZE,) * 2, indexing="ij")
    dot = np.hypot(y % 1 - 0.5, (x + 0.5 * (np.floor(y) % 2)) % 1 - 0.5) < radius
    return np.where(dot[..., None], np.asarray(_pick_colour(rng, ANY)), _plaster(rng, colour))


def _planks(rng: np.random.Generator, colour: tuple[float, float, float]) -> np.ndarray:
    """Boards along x; each row has its own shift, tone and grain."""
    rows, per_row = int(rng.choice([8, 16])), int(rng.choice([1, 2, 4]))
    y, x = np.meshgrid(np.arange(SIZE) * rows / SIZE, np.arange(SIZE) / SIZE, indexing="ij")
    row = np.floor(y).astype(int)
    along = (x + rng.uniform(0, 1, rows)[row]) * per_row
    board = np.floor(along).astype(int) % per_row
    tone = rng.normal(1.0, rng.uniform(0.03, 0.12), (rows, per_row))[row, board]
    grain = _fractal(rng, 1.2, (0.08, 1.0))
    gap = (y % 1 < 0.02) | (along % 1 < 0.002 * per_row)
    return _tint(colour, tone * (1 + 0.08 * grain) * np.where(gap, 0.55, 1.0))


def _tiles(rng: np.random.Generator, colour: tuple[float, float, float]) -> np.ndarray:
    """Square tiles with joints, plain or a chessboard, sometimes veined."""
    count, joint = int(rng.choice([4, 6, 8, 12])), rng.uniform(0.02, 0.05)
    y, x = np.meshgrid(*(np.arange(SIZE) * count / SIZE,) * 2, indexing="ij")
    tone = rng.normal(1.0, 0.03, (count, count))[np.floor(y).astype(int), np.floor(x).astype(int)]
    body = _tint(colour, tone * (1 + rng.uniform(0, 0.08) * _fractal(rng, 1.6)))
    if rng.random() < 0.4:
        second = np.asarray(_pick_colour(rng, ANY))
        body = np.where(((np.floor(y) + np.floor(x)) % 2 == 0)[..., None], body, body * second)
    return np.where(((y % 1 < joint) | (x % 1 < joint))[..., None], rng.uniform(0.3, 0.8), body)


def _bricks(rng: np.random.Generator, colour: tuple[float, float, float]) -> np.ndarray:
    y, x = np.meshgrid(np.arange(SIZE) * 24 / SIZE, np.arange(SIZE) * 8 / SIZE, indexing="ij")
    row = np.floor(y).astype(int)
    x = (x + 0.5 * (row % 2)) % 8
    tone = rng.normal(1.0, 0.12, (24, 8))[row, np.floor(x).astype(int)]
    body = _tint(colour, tone * (1 + 0.08 * _fractal(rng, 0.7)))
    return np.where(((y % 1 < 0.12) | (x % 1 < 0.04))[..., None], 0.65 + 0.03 * _fractal(rng, 0.5)[..., None], body)


def _carpet(rng: np.random.Generator, colour: tuple[float, float, float]) -> np.ndarray:
    return _tint(colour, 1 + 0.1 * _fractal(rng, 0.1) + 0.06 * _fractal(rng, 1.4))


def _stone(rng: np.random.Generator, colour: tuple[float, float, float]) -> np.ndarray:
    vein = np.exp(-np.abs(_fractal(rng, 1.7)) * rng.uniform(4, 12))
    return _tint(colour, 1 + 0.06 * _fractal(rng, 1.3) - rng.uniform(0.1, 0.5) * vein)


def _grass(rng: np.random.Generator, colour: tuple[float, float, float]) -> np.ndarray:
    return _tint(colour, 1 + 0.25 * _fractal(rng, 0.4) + 0.15 * _fractal(rng, 1.6))


def _gravel(rng: np.random.Generator, colour: tuple[float, float, float]) -> np.ndarray:
    return _tint(colour, 1 + 0.22 * _fractal(rng, 0.7) + 0.05 * _fractal(rng, 1.8))


def _artwork(rng: np.random.Generator, colour: tuple[float, float, float]) -> np.ndarray:
    """Something to hang on a wall: a shaded ground with soft or hard shapes on it."""
    picture = _tint(colour, 1 + 0.25 * _fractal(rng, 2.0))
    y, x = np.meshgrid(*(np.linspace(0, 1, SIZE),) * 2, indexing="ij")
    for _ in range(rng.integers(2, 14)):
        cy, cx, ry, rx = rng.uniform([0, 0, 0.03, 0.03], [1, 1, 0.4, 0.4])
        power = rng.choice([1.0, 2.0, 8.0])
        inside = (np.abs((y - cy) / ry) ** power + np.abs((x - cx) / rx) ** power) < 1
        shade = np.asarray(_pick_colour(rng, ANY)) * (1 + 0.2 * _fractal(rng, 1.8)[..., None])
        picture = np.where(inside[..., None], shade, picture)
    return picture


PALE = ((0.0, 1.0), (0.0, 0.25), (0.7, 0.95))
ANY = ((0.0, 1.0), (0.1, 0.8), (0.15, 0.9))
WOOD = ((0.04, 0.11), (0.25, 0.65), (0.25, 0.8))
GREY = ((0.0, 1.0), (0.0, 0.1), (0.3, 0.85))

PAINTERS: dict[str, tuple[Painter, tuple[tuple[float, float], ...]]] = {
    "paint": (_plaster, PALE),
    "colour": (_plaster, ((0.0, 1.0), (0.2, 0.6), (0.35, 0.9))),
    "stripes": (_stripes, PALE),
    "dots": (_dots, PALE),
    "planks": (_planks, WOOD),
    "tiles": (_tiles, ((0.0, 1.0), (0.0, 0.4), (0.35, 0.95))),
    "bricks": (_bricks, ((0.0, 0.08), (0.2, 0.6), (0.4, 0.75))),
    "carpet": (_carpet, ANY),
    "stone": (_stone, GREY),
    "grass": (_grass, ((0.18, 0.3), (0.4, 0.7), (0.25, 0.5))),
    "gravel": (_gravel, ((0.05, 0.12), (0.02, 0.3), (0.3, 0.65))),
    "artwork": (_artwork, ANY),
}
