"""EXR: scan-line OpenEXR files of named channels, by the published file layout."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Channel(NamedTuple):
    """One channel of a file."""

    name: str
    """Such as R, Z, or N.X: a layer, a dot and a letter."""
    values: np.ndarray
    """(H, W)."""
    half: bool = False
    """16-bit floats instead of 32-bit ones."""


class Kind(NamedTuple):
    """A pixel type: its number in the file, and how its values are stored."""

    number: int
    dtype: str


HALF, FLOAT = Kind(1, "<f2"), Kind(2, "<f4")
LONG_NAMES = 0x400
"""A flag of the version: some names have more than 31 characters."""


def _as_they_are(lines: bytes) -> bytes:
    return lines


def _deflated(lines: bytes) -> bytes:
    """OpenEXR's ZIP: even bytes before odd ones, then differences, then zlib; as they are if that is no shorter."""
    data = np.frombuffer(lines, np.uint8)
    sorted_ = np.concatenate((data[::2], data[1::2]))
    # 128 is added to every difference, all of it modulo 256
    differences = np.concatenate((sorted_[:1], sorted_[1:] - sorted_[:-1] + np.uint8(128)))
    packed = zlib.compress(differences.tobytes(), 4)
    return packed if len(packed) < len(lines) else lines


class Compression(NamedTuple):
    """One way to store lines: its number in the file, how many lines go together, and what is done to them."""

    number: int
    lines: int
    pack: Callable[[bytes], bytes]


COMPRESSIONS: dict[str, Compression] = {
    "none": Compression(0, 1, _as_they_are),
    "zip": Compression(3, 16, _deflated),
}


def exr(channels: Sequence[Channel], attributes: dict[str, str], compression: str = "zip") -> bytes:
    """The bytes of a file; attributes are texts for its header."""
    ordered = sorted(channels, key=lambda channel: channel.name.encode())  # so they must lie
    row = COMPRESSIONS[compression]
    height, width = ordered[0].values.shape
    head = header(width, height, ordered, attributes, row.number)
    # a line holds all of the first channel, then all of the second
    planes = [
        np.ascontiguousarray(c.values, _channel_type(c).dtype).view(np.uint8).reshape(height, -1) for c in ordered
    ]
    lines = np.hstack(planes)
    blocks = [
        struct.pack("<ii", y, len(data)) + data
        for y in range(0, height, row.lines)
        for data in (row.pack(lines[y : y + row.lines].tobytes()),)
    ]
    starts = np.cumsum([len(head) + 8 * len(blocks), *map(len, blocks[:-1])], dtype="<u8")
    return b"".join((head, starts.tobytes(), *blocks))


def _channel_type(channel: Channel) -> Kind:
    return HALF if channel.half else FLOAT


def header(width: int, height: int, channels: Sequence[Channel], attributes: dict[str, str], compression: int) -> bytes:
    """Magic number, version 2, and the attributes that every reader asks for."""
    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    listed = b"".join(
        c.name.encode() + b"\0" + struct.pack("<iB3xii", _channel_type(c).number, 0, 1, 1) for c in channels
    )
    rows = [
        ("channels", "chlist", listed + b"\0"),
        ("compression", "compression", bytes([compression])),
        ("dataWindow", "box2i", window),
        ("displayWindow", "box2i", window),
        ("lineOrder", "lineOrder", b"\0"),
        ("pixelAspectRatio", "float", struct.pack("<f", 1)),
        ("screenWindowCenter", "v2f", struct.pack("<2f", 0, 0)),
        ("screenWindowWidth", "float", struct.pack("<f", 1)),
        *((name, "string", text.encode()) for name, text in attributes.items()),
    ]
    packed = b"".join(f"{name}\0{kind}\0".encode() + struct.pack("<i", len(data)) + data for name, kind, data in rows)
    long = any(len(name) > 31 for name in (*attributes, *(channel.name for channel in channels)))
    return struct.pack("<ii", 20000630, 2 | LONG_NAMES * long) + packed + b"\0"
