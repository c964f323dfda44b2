"""One reader for training and prediction: the same picture of the same file, at the depth in which it is stored."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from diffusion_perception.core.errors import UserError
from diffusion_perception.trainer.data.records import read_image as seen_in_training
from diffusion_perception.trainer.perceiver import read_upright as seen_in_prediction

H, W = 5, 7
COLOURS = np.random.default_rng(0).integers(0, 65536, (H, W, 3)).astype(np.uint16)
ALPHA = np.random.default_rng(1).integers(1, 65536, (H, W, 1)).astype(np.uint16)
GREY = COLOURS[..., :1]
BYTES = (COLOURS >> 8).astype(np.uint8)


def both(path: Path) -> np.ndarray:
    """(H, W, 3): what both readers see of a file, which must be the same to the last bit."""
    trained, predicted = seen_in_training(path)[0].numpy(), seen_in_prediction(path)[0].numpy()
    assert np.array_equal(trained, predicted)
    return np.moveaxis(predicted, 0, -1)


def exact(levels: np.ndarray, white: float = 65535) -> np.ndarray:
    """(H, W, 3) float32: k / white, rounded once."""
    return np.broadcast_to((levels / np.float64(white)).astype(np.float32), (*levels.shape[:2], 3))


# Files written by hand, from the formats' own specifications


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(levels: np.ndarray, orientation: int = 0) -> bytes:
    """A PNG of 16 bits of 1 to 4 channels."""
    height, width, channels = levels.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    exif = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    return b"".join((
        b"\x89PNG\r\n\x1a\n",
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)),
        chunk(b"eXIf", exif) if orientation else b"",
        chunk(b"IDAT", zlib.compress(rows)),
        chunk(b"IEND", b""),
    ))  # fmt: skip


def tiff(levels: np.ndarray, orientation: int = 1) -> bytes:
    """An uncompressed little-endian TIFF of one strip, in the array's own type."""
    height, width, channels = levels.shape
    data = levels.astype(levels.dtype.newbyteorder("<")).tobytes()
    bits = struct.pack(f"<{channels}H", *[levels.dtype.itemsize * 8] * channels)
    forms = struct.pack(f"<{channels}H", *[3 if levels.dtype.kind == "f" else 1] * channels)
    places = 8 + len(data), 8 + len(data) + len(bits)
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, places[0]), (259, 3, 1, 1),
        (262, 3, 1, 2 if channels >= 3 else 1), (273, 4, 1, 8), (274, 3, 1, orientation), (277, 3, 1, channels),
        (278, 4, 1, height), (279, 4, 1, len(data)), (284, 3, 1, 1), (339, 3, channels, places[1]),
    ]  # fmt: skip
    if channels == 1:  # a single short lies in the tag itself
        tags = [(tag, kind, n, struct.unpack("<H", bits)[0] if tag == 258 else v) for tag, kind, n, v in tags]
        tags = [(tag, kind, n, struct.unpack("<H", forms)[0] if tag == 339 else v) for tag, kind, n, v in tags]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *row) for row in tags) + b"\0" * 4
    return struct.pack("<2sHI", b"II", 42, places[1] + len(forms)) + data + bits + forms + directory


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_sixteen_bits_is_read_to_the_last_bit(tmp_path, channels):
    colours = COLOURS if channels >= 3 else GREY
    path = tmp_path / "x.png"
    path.write_bytes(png(np.concatenate([colours, ALPHA], -1) if channels in (2, 4) else colours))
    assert np.array_equal(both(path), exact(colours))


@pytest.mark.parametrize("channels", [1, 3])
def test_tiff_of_sixteen_bits_is_read_to_the_last_bit(tmp_path, channels):
    colours = COLOURS if channels == 3 else GREY
    path = tmp_path / "x.tif"
    path.write_bytes(tiff(colours))
    assert np.array_equal(both(path), exact(colours))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_of_another_programme_are_read_to_the_last_bit(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    assert cv2.imwrite(str(path), COLOURS[..., ::-1])
    assert np.array_equal(both(path), exact(COLOURS))


def write_exr(path: Path, colours: np.ndarray) -> None:
    openexr = pytest.importorskip("OpenEXR")
    with openexr.File({}, {"RGB": colours}) as file:
        file.write(str(path))


FLOATS: dict[str, Callable[[Path, np.ndarray], object]] = {
    ".tif": lambda path, colours: path.write_bytes(tiff(colours)),
    ".npy": np.save,
    ".exr": write_exr,
}


@pytest.mark.parametrize("suffix", FLOATS)
def test_floats_are_read_as_they_are_stored(tmp_path, suffix):
    colours = (COLOURS / np.float64(65535)).astype(np.float32)
    path = tmp_path / f"x{suffix}"
    FLOATS[suffix](path, colours)
    assert np.array_equal(both(path), colours)


def test_floats_beyond_black_and_white_are_clipped(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[[-1.0, 0.5, 7.0], [np.nan, np.inf, -np.inf]]], np.float32))
    assert both(tmp_path / "x.npy").tolist() == [[[0.0, 0.5, 1.0], [0.0, 1.0, 0.0]]]


UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}
"""Of the stored rows and columns, by what EXIF says of the first row and the first column."""


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("write", [png, tiff])
def test_deep_pictures_lie_as_their_camera_says(tmp_path, write, orientation):
    path = tmp_path / ("x.png" if write is png else "x.tif")
    path.write_bytes(write(COLOURS, orientation))
    assert np.array_equal(both(path), exact(UPRIGHT[orientation](COLOURS)))


# Eight bits


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif"])
def test_eight_bits_are_those_that_pillow_shows(tmp_path, mode, suffix):
    picture = Image.fromarray(np.concatenate([BYTES, (ALPHA >> 8).astype(np.uint8)], -1)).convert("RGBA")
    picture = (
        picture if mode == "RGBA" else picture.convert(mode) if mode == "LA" else picture.convert("RGB").convert(mode)
    )
    path = tmp_path / f"x{suffix}"
    try:
        picture.save(path)
    except OSError:
        pytest.skip(f"{suffix} has no {mode}")
    with Image.open(path) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
    assert np.array_equal(both(path), exact(expected, 255))


@pytest.mark.parametrize("name", ["x", "x.gif", "x.jpe"])
def test_a_picture_is_predicted_whatever_it_is_called(tmp_path, name):
    Image.fromarray(BYTES).save(tmp_path / name, format="PNG")
    assert np.array_equal(seen_in_prediction(tmp_path / name)[0].movedim(0, -1).numpy(), exact(BYTES, 255))


@pytest.mark.parametrize(("suffix", "kind"), [(".tif", np.int32), (".npy", np.int64), (".npy", np.uint32)])
def test_whole_numbers_without_a_white_are_refused_and_no_black_picture(tmp_path, suffix, kind):
    levels = np.linspace(0, 100_000, 20 * 30).reshape(20, 30).astype(kind)
    path = tmp_path / f"x{suffix}"
    np.save(path, levels) if suffix == ".npy" else Image.fromarray(levels).save(path)
    for see in (seen_in_training, seen_in_prediction):
        with pytest.raises(UserError, match="nobody knows what is white"):
            see(path)


def test_sixteen_bits_that_lie_in_thirty_two_are_sixteen(tmp_path):
    levels = np.linspace(0, 65535, 20 * 30).reshape(20, 30).astype(np.int32)
    Image.fromarray(levels).save(tmp_path / "x.tif")
    assert np.allclose(both(tmp_path / "x.tif")[..., 0], levels / 65535, atol=1e-6)
