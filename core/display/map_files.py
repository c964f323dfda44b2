"""Files: maps as EXR, 16-bit PNG and NPY, encoded here by the published formats, written whole or not at all."""

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
from .exr import Channel, exr
from .picture import trusted, unit_of

Chunk = tuple[bytes, bytes]
"""A PNG chunk: its type and its data."""

KEY = "diffusion_perception.map"
"""Under this keyword a PNG, and by this name an EXR attribute, says what the numbers mean."""

PNG_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
EXR_CHANNELS: dict[int, Sequence[str]] = {1: "Y", 3: "RGB", 4: "RGBA"}


def png16(levels: np.ndarray, chunks: Iterable[Chunk] = ()) -> bytes:
    """(H, W, C) uint16 with 1 to 4 channels -> the bytes of a PNG; `chunks` go before the pixels."""
    return png(levels.astype(np.uint16), chunks)


def png(levels: np.ndarray, chunks: Iterable[Chunk] = ()) -> bytes:
    """(H, W, C) uint8 or uint16 with 1 to 4 channels -> the bytes of a PNG; `chunks` go before the pixels."""
    height, width, channels = levels.shape
    if channels not in PNG_COLOUR_TYPES:
        raise UserError(f"A PNG holds 1 to 4 channels, this map has {channels}: choose the format exr32 or npy.")
    bits = 8 * levels.dtype.itemsize
    header = struct.pack(">IIBBBBB", width, height, bits, PNG_COLOUR_TYPES[channels], 0, 0, 0)
    rows = np.ascontiguousarray(levels, levels.dtype.newbyteorder(">")).view(np.uint8).reshape(height, -1)
    above = np.vstack((np.zeros_like(rows[:1]), rows[:-1]))
    # filter type 2, the difference to the row above: smooth maps shrink to half
    filtered = np.hstack((np.full((height, 1), 2, np.uint8), rows - above))
    body = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(filtered.tobytes(), 6)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(*chunk) for chunk in body)


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_text(keyword: str, text: str) -> Chunk:
    """A tEXt chunk; both words in Latin-1."""
    return b"tEXt", keyword.encode("latin-1") + b"\0" + text.encode("latin-1")


def exr32(values: np.ndarray, attributes: dict[str, str] | None = None) -> bytes:
    """(H, W, C) -> the bytes of an uncompressed scan-line OpenEXR file of 32-bit floats."""
    return exr(_layer_channels(values), attributes or {}, "none")


def _layer_channels(values: np.ndarray, half: bool = False) -> list[Channel]:
    """(H, W, C) as a file's only layer: gray, colours, colours with alpha, or numbers."""
    count = values.shape[-1]
    names = EXR_CHANNELS.get(count) or [f"{number:03}" for number in range(count)]
    return [Channel(name, values[..., place], half) for place, name in enumerate(names)]


def npy(values: np.ndarray) -> bytes:
    """(H, W, C) -> the bytes of a NumPy file, float32; one channel is stored as (H, W)."""
    buffer = io.BytesIO()
    np.save(buffer, (values[..., 0] if values.shape[-1] == 1 else values).astype(np.float32), allow_pickle=False)
    return buffer.getvalue()


def quantise(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """low..high -> 0..65535, linear, to the nearest level; what lies beyond takes the end's."""
    share = (values.astype(np.float64) - low) / (high - low)
    return np.round(share.clip(0, 1) * 65535).astype(np.uint16)


def _png_range(convention: Convention, values: np.ndarray) -> tuple[float, float]:
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


def meaning_of(map: PerceptionMap) -> dict[str, object]:
    """What the numbers of a map mean, as JSON."""
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
    return {key: value for key, value in meaning.items() if value not in (None, "")}


def pages(map: PerceptionMap) -> list[Page]:
    """The images of a map."""
    pairs = zip(map.values.float().cpu().numpy(), trusted(map).cpu().numpy(), strict=True)
    return [Page(values, known, meaning_of(map), map.convention) for values, known in pairs]


def texts_of(chunks: Iterable[Chunk]) -> dict[str, str]:
    """The texts of PNG chunks by their keywords: in EXR files they are attributes of these names."""
    parts = [data.partition(b"\0") for kind, data in chunks if kind == b"tEXt"]
    return {keyword.decode("latin-1"): text.decode("latin-1") for keyword, _, text in parts}


def _encode_exr32(page: Page, chunks: Iterable[Chunk]) -> bytes:
    return exr(_layer_channels(page.values), _header_of(page, chunks), "none")


def _encode_exr32_zip(page: Page, chunks: Iterable[Chunk]) -> bytes:
    return exr(_layer_channels(page.values), _header_of(page, chunks))


def _encode_exr16_zip(page: Page, chunks: Iterable[Chunk]) -> bytes:
    return exr(_layer_channels(page.values, half=True), _header_of(page, chunks))


def _header_of(page: Page, chunks: Iterable[Chunk]) -> dict[str, str]:
    return {KEY: json.dumps(page.meaning), **texts_of(chunks)}


def _encode_png16(page: Page, chunks: Iterable[Chunk]) -> bytes:
    """What is unknown becomes 0; the text says which values 0 and 65535 stand for."""
    values = np.where(page.known[..., None], page.values, 0)
    low, high = _png_range(page.convention, values[page.known] if page.known.any() else values)
    levels = np.where(page.known[..., None], quantise(values, low, high), 0)
    said = png_text(KEY, json.dumps({**page.meaning, "black": low, "white": high}))
    return png16(levels.astype(np.uint16), [said, *chunks])


def _encode_npy(page: Page, chunks: Iterable[Chunk]) -> bytes:
    return npy(page.values)


class Format(NamedTuple):
    """One kind of file."""

    suffix: str
    encode: Callable[[Page, Iterable[Chunk]], bytes]
    scaled: bool = False
    """Numbers are not the raw ones: the file name says the unit of metric depth."""


FORMATS: dict[str, Format] = {
    "exr32": Format(".exr", _encode_exr32),
    "png16": Format(".png", _encode_png16, scaled=True),
    "npy": Format(".npy", _encode_npy),
    "exr16 zip": Format(".exr", _encode_exr16_zip),
    "exr32 zip": Format(".exr", _encode_exr32_zip),
}


def name_of(stem: str, number: int, map: PerceptionMap, format: str) -> str:
    """The file name as the host numbers them: stem_00001_.png, or stem_00001_mm.png for metric depth in millimetres."""
    unit = "mm" if FORMATS[format].scaled and unit_of(map.convention) == "metres" else ""
    return f"{stem}_{number:05}_{unit}{FORMATS[format].suffix}"
