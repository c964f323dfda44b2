"""Files: maps as 32-bit EXR, 16-bit PNG and NPY, encoded here by the published formats, written whole or not at all."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ..errors import UserError
from ..perception_map import Convention, PerceptionMap
from .picture import trusted, unit_of

Chunk = tuple[bytes, bytes]
"""A PNG chunk: its type and its data."""

KEY = "diffusion_perception.map"
"""Under this keyword a PNG, and by this name an EXR attribute, says what the numbers mean."""

PNG_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
EXR_CHANNELS: dict[int, Sequence[str]] = {1: "Y", 3: "RGB", 4: "RGBA"}
FLOAT = 2
"""The EXR number of the pixel type."""


def png16(levels: np.ndarray, chunks: Iterable[Chunk] = ()) -> bytes:
    """(H, W, C) uint16 with 1 to 4 channels -> the bytes of a PNG; `chunks` go before the pixels."""
    height, width, channels = levels.shape
    if channels not in PNG_COLOUR_TYPES:
        raise UserError(f"A PNG holds 1 to 4 channels, this map has {channels}: choose the format exr32 or npy.")
    header = struct.pack(">IIBBBBB", width, height, 16, PNG_COLOUR_TYPES[channels], 0, 0, 0)
    rows = np.ascontiguousarray(levels, ">u2").view(np.uint8).reshape(height, -1)
    above = np.vstack((np.zeros_like(rows[:1]), rows[:-1]))
    # filter type 2, the difference to the row above: smooth maps shrink to half
    filtered = np.hstack((np.full((height, 1), 2, np.uint8), rows - above))
    body = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(filtered.tobytes(), 6)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in body)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_text(keyword: str, text: str) -> Chunk:
    """A tEXt chunk; both words in Latin-1."""
    return b"tEXt", keyword.encode("latin-1") + b"\0" + text.encode("latin-1")


def exr32(values: np.ndarray, attributes: dict[str, str] | None = None) -> bytes:
    """(H, W, C) -> the bytes of an uncompressed scan-line OpenEXR file of 32-bit floats."""
    height, width, channels = values.shape
    names = EXR_CHANNELS.get(channels) or [f"{number:03}" for number in range(channels)]
    header = exr_header(width, height, names, attributes or {})
    order = sorted(range(channels), key=names.__getitem__)  # channels lie in the order of their names
    planes = np.moveaxis(values[..., order].astype("<f4"), -1, 1).reshape(height, -1)
    lines = np.hstack((np.empty((height, 2), "<i4"), planes.view("<i4")))
    lines[:, 0], lines[:, 1] = np.arange(height), planes.shape[1] * 4
    start = len(header) + 8 * height
    offsets = start + np.arange(height, dtype="<u8") * (lines.shape[1] * 4)
    return header + offsets.tobytes() + lines.tobytes()


def exr_header(width: int, height: int, names: Sequence[str], attributes: dict[str, str]) -> bytes:
    """Magic number, version 2, and the attributes that every reader asks for."""
    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    channels = b"".join(n.encode() + b"\0" + struct.pack("<iB3xii", FLOAT, 0, 1, 1) for n in sorted(names)) + b"\0"
    rows = [
        ("channels", "chlist", channels),
        ("compression", "compression", b"\0"),
        ("dataWindow", "box2i", window),
        ("displayWindow", "box2i", window),
        ("lineOrder", "lineOrder", b"\0"),
        ("pixelAspectRatio", "float", struct.pack("<f", 1)),
        ("screenWindowCenter", "v2f", struct.pack("<2f", 0, 0)),
        ("screenWindowWidth", "float", struct.pack("<f", 1)),
        *((name, "string", text.encode()) for name, text in attributes.items()),
    ]
    packed = b"".join(f"{name}\0{kind}\0".encode() + struct.pack("<i", len(data)) + data for name, kind, data in rows)
    return struct.pack("<ii", 20000630, 2) + packed + b"\0"


def npy(values: np.ndarray) -> bytes:
    """(H, W, C) -> the bytes of a NumPy file, float32; one channel is stored as (H, W)."""
    buffer = io.BytesIO()
    np.save(buffer, (values[..., 0] if values.shape[-1] == 1 else values).astype(np.float32), allow_pickle=False)
    return buffer.getvalue()


def quantise(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """low..high -> 0..65535, linear, to the nearest level; what lies beyond takes the end's."""
    share = (values.astype(np.float64) - low) / (high - low)
    return np.round(share.clip(0, 1) * 65535).astype(np.uint16)


def png_range(convention: Convention, values: np.ndarray) -> tuple[float, float]:
    """The values that become 0 and 65535: the convention's range, the image's own where that is open.

    Metric depth is stored in millimetres, so that its range ends at 65.535 m; class numbers are stored as they are.
    """
    if unit_of(convention) == "metres":
        return 0.0, 65.535
    if convention.classes:
        return 0.0, 65535.0
    low = values.min().item() if convention.low is None else convention.low
    high = values.max().item() if convention.high is None else convention.high
    return (-1.0, 1.0) if convention.unit else (low, high if high > low else low + 1)


class Page(NamedTuple):
    """One image of a map, ready to be written."""

    values: np.ndarray
    """(H, W, C) float32, raw."""
    known: np.ndarray
    """(H, W) bool."""
    meaning: dict[str, object]
    """What the numbers mean, as JSON."""
    convention: Convention


def pages(map: PerceptionMap) -> list[Page]:
    """The images of a map."""
    convention = map.convention
    meaning = {
        "task": map.task,
        "recipe": map.recipe,
        "low": convention.low,
        "high": convention.high,
        "near": convention.near,
        "unit": unit_of(convention),
        "axes": convention.axes,
        "encoding": convention.encoding,
        "up to scale": convention.up_to_scale or None,
        "palette": convention.palette,
        "holds": "class numbers" if convention.classes else None,
        "alpha": "straight" if map.task == "image" and map.values.shape[-1] == 4 else None,
    }
    meaning = {key: value for key, value in meaning.items() if value not in (None, "")}
    pairs = zip(map.values.float().cpu().numpy(), trusted(map).cpu().numpy(), strict=True)
    return [Page(values, known, meaning, convention) for values, known in pairs]


def encode_exr32(page: Page, chunks: Iterable[Chunk]) -> bytes:
    return exr32(page.values, {KEY: json.dumps(page.meaning)})


def encode_png16(page: Page, chunks: Iterable[Chunk]) -> bytes:
    """What is unknown becomes 0; the text says which values 0 and 65535 stand for."""
    values = np.where(page.known[..., None], page.values, 0)
    low, high = png_range(page.convention, values[page.known] if page.known.any() else values)
    levels = np.where(page.known[..., None], quantise(values, low, high), 0)
    said = png_text(KEY, json.dumps({**page.meaning, "black": low, "white": high}))
    return png16(levels.astype(np.uint16), [said, *chunks])


def encode_npy(page: Page, chunks: Iterable[Chunk]) -> bytes:
    return npy(page.values)


class Format(NamedTuple):
    """One kind of file."""

    suffix: str
    encode: Callable[[Page, Iterable[Chunk]], bytes]
    scaled: bool = False
    """Numbers are not the raw ones: the file name says the unit of metric depth."""


FORMATS: dict[str, Format] = {
    "exr32": Format(".exr", encode_exr32),
    "png16": Format(".png", encode_png16, scaled=True),
    "npy": Format(".npy", encode_npy),
}


def name_of(stem: str, number: int, map: PerceptionMap, format: str) -> str:
    """The file name as the host numbers them: stem_00001_.png, or stem_00001_mm.png for metric depth in millimetres."""
    unit = "mm" if FORMATS[format].scaled and unit_of(map.convention) == "metres" else ""
    return f"{stem}_{number:05}_{unit}{FORMATS[format].suffix}"
