"""Arrays: the numbers that a file stores, as they lie there; PNG, JPEG, WebP, BMP, TIFF, EXR, NPY, NPZ and HDF5."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin

from ...core.errors import UserError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY_PNG = 0
"""PNG's number for a picture of one channel."""
PILLOW_MODES = {"1", "L", "LA", "RGB", "RGBA", "I;16", "I;16B", "I", "F"}
"""Kinds of picture whose numbers are handed out as they are; others become RGB, with alpha if they have any."""
EXR_NAMES = ("RGBA", "RGB", "XYZ", "Y", "V", "Z")
"""Channels that belong together; the first set that a file has is read."""


Reader = Callable[[Path, bool], np.ndarray]
"""(path, indexed) -> array, as in read_array."""


class BrokenRecord(UserError):
    """One record of a dataset that cannot be used, in one sentence that names it."""


def read_array(path: Path, indexed: bool = False, other: Reader | None = None) -> np.ndarray:
    """(H, W) or (H, W, C), RGB order, in the file's own type. BrokenRecord if it is missing, empty or damaged.

    indexed: the numbers of a paletted picture are wanted, not its colours; other: reads files of any other name.
    """
    reader = READERS.get(path.suffix.lower(), other)
    if reader is None:
        raise BrokenRecord(f"{path} is of a kind that is not read; take one of {', '.join(sorted(READERS))}.")
    check_file(path)
    return _in_shape(decoded(path, reader, indexed), path)


def decoded(path: Path, reader: Reader, indexed: bool) -> np.ndarray:
    """What a library makes of a file. BrokenRecord for whatever it raises of a damaged one."""
    try:
        return reader(path, indexed)
    except Image.DecompressionBombError as error:
        raise BrokenRecord(f"{path} is too large a picture ({error}).") from error
    except UNREADABLE as error:
        raise BrokenRecord(f"{path} cannot be read ({error}).") from error


UNREADABLE = (
    OSError, ValueError, SyntaxError, EOFError, OverflowError, MemoryError, struct.error, zlib.error,
    zipfile.BadZipFile, tokenize.TokenError,
)  # fmt: skip
"""What the libraries that decode pictures and arrays raise of damaged files."""


def check_file(path: Path) -> None:
    """BrokenRecord unless there is a file with something in it."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise BrokenRecord(f"{path} is missing ({error.strerror}).") from error
    if size == 0:
        raise BrokenRecord(f"{path} is empty (0 bytes).")


def _in_shape(array: np.ndarray, path: Path) -> np.ndarray:
    """The same numbers as (H, W) or (H, W, C) with 2 to 4 channels."""
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or array.size == 0 or (array.ndim == 3 and array.shape[-1] > 4):
        raise BrokenRecord(f"{path} has shape {array.shape}; expected (H, W) or (H, W, C) with up to 4 channels.")
    if array.dtype.kind not in "buif":
        raise BrokenRecord(f"{path} holds {array.dtype}, not numbers.")
    return array


def read_picture(path: Path, indexed: bool) -> np.ndarray:
    """Upright as its camera says, at the depth of the file: of several channels Pillow keeps 8 bits."""
    deep = _read_deep_png(path) if _is_deep_png(path) else _read_deep_tiff(path)
    if deep is not None:
        return _sixteen(deep)
    with Image.open(path) as picture:
        return pixels_of(picture, indexed)


def pixels_of(picture: Image.Image, indexed: bool = False) -> np.ndarray:
    """Of a picture that Pillow holds, upright; colours, unless the numbers of a paletted one are wanted."""
    picture = ImageOps.exif_transpose(picture)
    if not (picture.mode in PILLOW_MODES or (indexed and picture.mode == "P")):
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    return _sixteen(np.asarray(picture))


def _sixteen(array: np.ndarray) -> np.ndarray:
    """Whole numbers of 32 bits as 16, where they fit: so older Pillows open 16 bits, and so many tools save them."""
    fits = array.dtype in (np.int32, np.uint32) and array.size and array.min() >= 0 and array.max() <= 65535
    return array.astype(np.uint16) if fits else array


def _is_deep_png(path: Path) -> bool:
    """16 bits and more than one channel, as its header says."""
    with path.open("rb") as file:
        head = file.read(26)
    return head.startswith(PNG_SIGNATURE) and len(head) == 26 and head[24] == 16 and head[25] != GREY_PNG


def _read_deep_png(path: Path) -> np.ndarray:
    array = _read_by_opencv(path)
    if array is None:
        raise UserError("it is damaged or cut off")
    with Image.open(path) as picture:  # OpenCV leaves PNGs lying as they are stored
        return TURNS.get(picture.getexif().get(ORIENTATION, 1), np.asarray)(array)


ORIENTATION = ExifTags.Base.Orientation
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda array: np.rot90(array, 2),
    4: np.flipud,
    5: lambda array: array.swapaxes(0, 1),
    6: lambda array: np.rot90(array, -1),
    7: lambda array: np.rot90(array, 2).swapaxes(0, 1),
    8: np.rot90,
}
"""What turns a picture upright, by the number that its camera gave it."""


def _read_deep_tiff(path: Path) -> np.ndarray | None:
    """A TIFF of greys or colours of more than 8 bits, upright; None for any other file, or if OpenCV cannot."""
    with path.open("rb") as file:
        head = file.read(8)
        if head[:4] not in TIFF_SIGNATURES:
            return None
        directory = TiffImagePlugin.ImageFileDirectory_v2(head + file.read(8) if head[2:4] in BIG_TIFF else head)
        file.seek(directory.next)
        directory.load(file)
    deep = max(directory.get(BITS, (1,))) > 8
    return _read_by_opencv(path) if deep and directory.get(COLOURS, 1) in GREY_OR_RGB else None


TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
BIG_TIFF = (b"+\0", b"\0+")
BITS, COLOURS = 258, 262
"""TIFF's numbers for bits per sample and photometric interpretation."""
GREY_OR_RGB = (0, 1, 2)


def _read_by_opencv(path: Path) -> np.ndarray | None:
    """(H, W) or (H, W, C) in RGB order; None if it cannot."""
    try:
        array = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    order = {2: [0, 1], 3: [2, 1, 0], 4: [2, 1, 0, 3]}  # OpenCV's colours lie the other way round
    return array if array is None or array.ndim == 2 else array[..., order[array.shape[-1]]]


def _read_exr(path: Path, indexed: bool) -> np.ndarray:
    import OpenEXR

    try:
        with OpenEXR.File(str(path), separate_channels=True) as file:
            planes = {name: channel.pixels for name, channel in file.channels().items()}
    except RuntimeError as error:
        raise UserError(str(error)) from error
    names = {name.rpartition(".")[2].upper(): name for name in planes}
    if len(names) == 1:
        return next(iter(planes.values())).astype(np.float32)
    for together in EXR_NAMES:
        if len(names) == len(planes) and set(together) <= set(names):
            chosen = [planes[names[letter]] for letter in together]
            return np.stack(chosen, -1).astype(np.float32)
    raise UserError(f"its channels are {', '.join(planes)}; expected one, or R G B (A), or X Y Z, of one layer")


def _read_npy(path: Path, indexed: bool) -> np.ndarray:
    array = np.load(path, allow_pickle=False)
    if isinstance(array, np.lib.npyio.NpzFile):
        with array as archive:
            if len(archive.files) != 1:
                raise UserError(f"it holds {len(archive.files)} arrays; expected one")
            array = archive[archive.files[0]]
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def _read_hdf5(path: Path, indexed: bool) -> np.ndarray:
    import h5py

    with h5py.File(path, "r") as file:
        if "dataset" not in file:
            raise UserError(f"it has no array 'dataset', only {', '.join(file) or 'nothing'}")
        array = np.asarray(file["dataset"])
    return array.astype(np.float32) if array.dtype.kind == "f" else array


READERS: dict[str, Reader] = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"), read_picture),
    ".exr": _read_exr,
    ".npy": _read_npy,
    ".npz": _read_npy,
    ".hdf5": _read_hdf5,
}
"""How each kind of file is read, by its suffix."""
PACKAGES = {".exr": "OpenEXR", ".hdf5": "h5py"}
"""What only some kinds of file need."""


def check_packages(suffixes: Iterable[str]) -> None:
    """UserError if files of these kinds need a package that is not installed."""
    for suffix in sorted(set(suffixes) & set(PACKAGES)):
        if find_spec(PACKAGES[suffix]) is None:
            raise UserError(f"{suffix} files need the package {PACKAGES[suffix]}: pip install {PACKAGES[suffix]}")


def full_scale(array: np.ndarray) -> float:
    """What white is in an array's own type: 1 for floats and bits."""
    return float(np.iinfo(array.dtype).max) if array.dtype.kind in "ui" else 1.0


def read_colours(path: Path, other: Reader | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A picture (H, W, 3) in [0, 1] for integer types, as stored for floats, and its alpha (H, W) in [0, 1].

    BrokenRecord for whole numbers of more than 16 bits. other: reads files of any other name than the keys of READERS.
    """
    array = read_array(path, other=other)
    if array.dtype.kind in "iu" and array.dtype.itemsize > 2:
        raise BrokenRecord(
            f"{path} holds whole numbers of {array.dtype.itemsize * 8} bits from {array.min()} to {array.max()}, of "
            "which nobody knows what is white: save it with 8 or 16 bits, or as floats from 0 to 1."
        )
    return colours_of(array)


def colours_of(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of an array that was read: what read_colours gives."""
    with np.errstate(invalid="ignore", over="ignore"):  # floats may be NaN, or larger than float32 holds
        values = (array / full_scale(array)).astype(np.float32)
    values = values[..., None] if values.ndim == 2 else values
    alpha = values[..., -1] if values.shape[-1] in (2, 4) else np.ones(values.shape[:2], np.float32)
    colours = values[..., : 3 if values.shape[-1] >= 3 else 1]
    return np.broadcast_to(colours, (*colours.shape[:2], 3)), alpha
