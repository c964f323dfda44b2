"""GLB: binary glTF 2.0 files of one mesh or point cloud, by the published layout (Khronos)."""

from __future__ import annotations

import json
import struct
from typing import Any, NamedTuple

import numpy as np

TRIANGLES, POINTS = 4, 0
"""The modes in which a primitive is drawn."""
ARRAY, ELEMENTS = 34962, 34963
"""What a view of the buffer is for: attributes of vertices, or their numbers."""
FLOAT, UINT = 5126, 5125
KINDS = {1: "SCALAR", 2: "VEC2", 3: "VEC3"}
LINEAR, CLAMPED = 9729, 33071
"""How a texture is read between its pixels, and beyond its edge."""


class Shape(NamedTuple):
    """What a file holds. Right, up and towards the viewer are x, y and z, in metres, as glTF has them."""

    positions: np.ndarray
    """(N, 3) float32."""
    faces: np.ndarray | None = None
    """(M, 3) numbers of vertices, anticlockwise as seen from outside; None for a point cloud."""
    places: np.ndarray | None = None
    """(N, 2) float32, where the vertices lie in the texture, from its upper left corner, in 0..1."""
    texture: bytes = b""
    """A PNG."""
    colours: np.ndarray | None = None
    """(N, 3) float32, of the vertices, in linear light."""


class Buffer:
    """The binary part of a file, and what its views and accessors say of it."""

    def __init__(self) -> None:
        self.data = b""
        self.views: list[dict[str, int]] = []
        self.accessors: list[dict[str, Any]] = []

    def view(self, data: bytes, target: int = 0) -> int:
        """Append bytes; gives the number of their view."""
        held = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(data)}
        self.views.append(held | ({"target": target} if target else {}))
        self.data += padded(data, b"\0")
        return len(self.views) - 1

    def accessor(self, values: np.ndarray, kind: int, target: int = ARRAY, bounds: bool = False) -> int:
        """Append values (N, C); gives the number of their accessor."""
        stored = np.ascontiguousarray(values, "<f4" if kind == FLOAT else "<u4")
        told: dict[str, Any] = {
            "bufferView": self.view(stored.tobytes(), target),
            "componentType": kind,
            "count": len(stored),
            "type": KINDS[stored.shape[1]],
        }
        if bounds:
            told |= {"min": stored.min(0).tolist(), "max": stored.max(0).tolist()}
        self.accessors.append(told)
        return len(self.accessors) - 1


def padded(data: bytes, filler: bytes) -> bytes:
    """To a whole number of 4 bytes."""
    return data + filler * (-len(data) % 4)


def glb(shape: Shape, extras: dict[str, str]) -> bytes:
    """The bytes of a file; extras are texts kept beside the shape. It shines by itself: pictures bring their light."""
    buffer = Buffer()
    attributes = {"POSITION": buffer.accessor(shape.positions, FLOAT, bounds=True)}
    if shape.places is not None:
        attributes["TEXCOORD_0"] = buffer.accessor(shape.places, FLOAT)
    if shape.colours is not None:
        attributes["COLOR_0"] = buffer.accessor(shape.colours, FLOAT)
    drawn: dict[str, Any] = {"attributes": attributes, "material": 0, "mode": POINTS}
    if shape.faces is not None:
        drawn |= {"indices": buffer.accessor(shape.faces.reshape(-1, 1), UINT, ELEMENTS), "mode": TRIANGLES}
    told = {
        "asset": {"version": "2.0", "generator": "Diffusion Perception", "extras": extras},
        "extensionsUsed": ["KHR_materials_unlit"],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [drawn]}],
        "materials": [
            {"doubleSided": True, "extensions": {"KHR_materials_unlit": {}}, **_painted(buffer, shape.texture)}
        ],
        **({"images": [{"bufferView": len(buffer.views) - 1, "mimeType": "image/png"}]} if shape.texture else {}),
        **({"samplers": [SAMPLER], "textures": [{"source": 0, "sampler": 0}]} if shape.texture else {}),
        "accessors": buffer.accessors,
        "bufferViews": buffer.views,
        "buffers": [{"byteLength": len(buffer.data)}],
    }
    parts = (b"JSON", padded(json.dumps(told).encode(), b" ")), (b"BIN\0", buffer.data)
    chunks = b"".join(struct.pack("<I", len(data)) + kind + data for kind, data in parts)
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


SAMPLER = {"magFilter": LINEAR, "minFilter": LINEAR, "wrapS": CLAMPED, "wrapT": CLAMPED}


def _painted(buffer: Buffer, texture: bytes) -> dict[str, Any]:
    """What a material says of its colour; the texture goes into the buffer."""
    if not texture:
        return {"pbrMetallicRoughness": {"metallicFactor": 0}}
    buffer.view(texture)
    return {"pbrMetallicRoughness": {"metallicFactor": 0, "baseColorTexture": {"index": 0}}}
