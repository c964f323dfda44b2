"""Colour: colormaps for a scalar, palettes for classes, and the way back from a colour to its class."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError, meant
from . import palettes

TOLD = 45
"""Classes that a sentence names at most."""
CHUNK = 1 << 16
"""Pixels compared with a palette at a time: 40 MB of distances to ADE20K."""


@dataclass(frozen=True)
class Palette:
    """The classes of a dataset and the colour of each."""

    name: str
    classes: tuple[str, ...]
    colours: tuple[str, ...]
    """RRGGBB, in class order."""

    @classmethod
    def parse(cls, name: str, text: str) -> Palette:
        """From 'RRGGBB class name, RRGGBB class name, ...'."""
        colours, classes = zip(*palettes.palette_entries(text))
        return cls(name, classes, colours)

    def text(self) -> str:
        """The same as text, on one line. Commas would end a name there, and every class needs one."""
        names = (" ".join(name.replace(",", ";").split()) or str(number) for number, name in enumerate(self.classes))
        return ", ".join(f"{colour} {name}" for colour, name in zip(self.colours, names))

    def table(self) -> Tensor:
        """(N, 3) in 0..255."""
        return levels(self.colours)

    def first(self) -> Tensor:
        """(N,) for every class the first class of the same colour, which is all that a picture can tell."""
        return torch.tensor([self.colours.index(colour) for colour in self.colours])

    def indices(self, picked: str) -> list[int]:
        """'sky, 12' -> [2, 12]: classes by name or by number from 0. UserError names the nearest right spelling."""
        return [self.index(word) for word in (part.strip() for part in picked.split(",")) if word]

    def index(self, word: str) -> int:
        names = [name.lower() for name in self.classes]
        if word.lower() in names:
            return names.index(word.lower())
        if word.isdecimal() and int(word) < len(names):
            return int(word)
        hint = meant(word.lower(), names, f"take a number from 0 to {len(names) - 1}, or a name.", most=3)
        raise UserError(f"The palette {self.name} has no class {word!r}: {hint} Its classes are {self.told()}.")

    def told(self) -> str:
        """Its classes, or the first of them."""
        more = f" and {len(self.classes) - TOLD} more" if len(self.classes) > TOLD else ""
        return ", ".join(self.classes[:TOLD]) + more


def levels(colours: tuple[str, ...] | list[str]) -> Tensor:
    """RRGGBB (N) -> (N, 3) in 0..255."""
    return torch.tensor([list(bytes.fromhex(colour)) for colour in colours], dtype=torch.float32)


PALETTES: dict[str, Palette] = {
    name: Palette.parse(name, text)
    for name, text in (
        ("ade20k", palettes.ADE20K),
        ("coco", palettes.COCO),
        ("nyu40", palettes.NYU40),
        ("rooms", palettes.ROOMS),
        ("furniture", palettes.FURNITURE),
        ("dmp", palettes.recoloured(palettes.ADE20K, palettes.DMP)),
    )
}
OWN = re.compile(r"([0-9a-fA-F]{6} [^,]+)(, ?[0-9a-fA-F]{6} [^,]+)*")
"""A palette as Palette.text() writes it."""


def palette_named(text: str) -> Palette:
    """A row of PALETTES, or a palette of one's own as Palette.text() writes it. UserError if it is neither."""
    if text in PALETTES:
        return PALETTES[text]
    if OWN.fullmatch(text):
        return Palette.parse("own", text)
    raise UserError(f"There is no palette {text!r}: set palette= to one of {', '.join(PALETTES)} in overrides.")


COLORMAPS: dict[str, list[str]] = {
    name: points.split()
    for name, points in (
        ("gray", "000000 ffffff"),
        ("spectral", palettes.SPECTRAL),
        ("inferno", palettes.INFERNO),
        ("turbo", palettes.TURBO),
        ("magma", palettes.MAGMA),
        ("viridis", palettes.VIRIDIS),
    )
}
"""From dark or blue at 0 to bright or red at 1."""


def colourise(values: Tensor, colormap: str) -> Tensor:
    """Values (...) -> RGB (..., 3) in [0, 1] along a row of COLORMAPS; values beyond [0, 1] take the end colours."""
    if colormap not in COLORMAPS:
        raise UserError(f"There is no colormap {colormap!r}: choose one of {', '.join(COLORMAPS)}.")
    points = levels(COLORMAPS[colormap]).to(values.device) / 255
    place = values.clamp(0, 1) * (len(points) - 1)
    below = place.long().clamp(max=len(points) - 2)
    return torch.lerp(points[below], points[below + 1], (place - below)[..., None])


def classify(picture: Tensor, palette: Palette) -> tuple[Tensor, Tensor]:
    """Colour map (B, H, W, 3) in [0, 1] -> the nearest class (B, H, W) int64, and how clearly so (B, H, W).

    Clearness is 1 on a palette colour and 0 half-way between two. Classes of one colour count as the first of them.
    """
    first = palette.first().unique()
    colours = palette.table()[first].to(picture.device)
    flat = picture.reshape(-1, 3) * 255  # whole numbers for 8-bit pictures, so that their distances are exact
    ranks, clearness = zip(*(nearest(pixels, colours) for pixels in flat.split(CHUNK)), strict=True)
    index = first.to(picture.device)[torch.cat(ranks)]
    return index.view(picture.shape[:-1]), torch.cat(clearness).view(picture.shape[:-1])


def nearest(pixels: Tensor, colours: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels (P, 3), distinct colours (N, 3) -> row of the nearest (P,), 1 - nearest / second nearest distance (P,)."""
    squares = (pixels**2).sum(1, keepdim=True) - 2 * pixels @ colours.T + (colours**2).sum(1)
    closest, rank = squares.min(1)
    second = squares.scatter(1, rank[:, None], torch.inf).amin(1)
    return rank, 1 - (closest.clamp(min=0) / second.clamp(min=1e-6)).clamp(max=1).sqrt()


def paint_classes(index: Tensor, palette: Palette) -> Tensor:
    """Classes (B, H, W) -> their colours (B, H, W, 3) in [0, 1]."""
    return (palette.table() / 255).to(index.device)[index]


def is_class(index: Tensor, picked: list[int], palette: Palette | None = None) -> Tensor:
    """Classes (B, H, W) -> bool, True where the class is one that is picked.

    palette: of classes that `classify` found, where those of one colour are all the first of them.
    """
    wanted = torch.tensor(picked, dtype=torch.long)
    return torch.isin(index, (wanted if palette is None else palette.first()[wanted]).to(index.device))
