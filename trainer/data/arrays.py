"""Arrays: the numbers that a file stores, as they lie there; PNG, JPEG, WebP, BMP, TIFF, EXR, NPY, NPZ and HDF5."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from ...core.errors import UserError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY_PNG = 0
"""PNG's number for a picture of one channel."""
PILLOW_MODES = {"1", "L", "LA", "RGB", "RGBA", "I;16", "I;16B", "I", "F"}
"""Kinds of picture whose numbers are handed out as they are; others become RGB, with alpha if they have any."""
EXR_NAMES = ("RGBA", "RGB", "XYZ", "Y", "V", "Z")
"""Channels that belong together; the first set that a file has is read."""


class BrokenRecord(UserError):
    """One record of a dataset that cannot be used, in one sentence that names it."""


def read_array(path: Path, indexed: bool = False) -> np.ndarray:
    """(H, W) or (H, W, C), RGB order, in the file's own type. BrokenRecord if it is missing, empty or damaged.

    indexed: the numbers of a paletted picture are wanted, not its colours.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise BrokenRecord(f"{path} is of a kind that is not read; take one of {', '.join(sorted(READERS))}.")
    check_file(path)
    try:
        array = reader(path, indexed)
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error, zipfile.BadZipFile) as error:
        raise BrokenRecord(f"{path} cannot be read ({error}).") from error
    except Image.DecompressionBombError as error:
        raise BrokenRecord(f"{path} is too large a picture ({error}).") from error
    return in_shape(array, path)


def check_file(path: Path) -> None:
    """BrokenRecord unless there is a file with something in it."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise BrokenRecord(f"{path} is missing ({error.strerror}).") from error
    if size == 0:
        raise BrokenRecord(f"{path} is empty (0 bytes).")


def in_shape(array: np.ndarray, path: Path) -> np.ndarray:
    """The same numbers as (H, W) or (H, W, C) with 2 to 4 channels."""
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or array.size == 0 or (array.ndim == 3 and array.shape[-1] > 4):
        raise BrokenRecord(f"{path} has shape {array.shape}; expected (H, W) or (H, W, C) with up to 4 channels.")
    if array.dtype.kind not in "buif":
        raise BrokenRecord(f"{path} holds {array.dtype}, not numbers.")
    return array


def read_picture(path: Path, indexed: bool) -> np.ndarray:
    """Upright as its camera says, like every picture that `predict` reads."""
    if is_deep_colour(path):
        return read_deep(path)
    with Image.open(path) as picture:
        picture = ImageOps.exif_transpose(picture)
        if not (picture.mode in PILLOW_MODES or (indexed and picture.mode == "P")):
            picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
        array = np.asarray(picture)
    if picture.mode == "I" and array.min() >= 0 and array.max() <= 65535:  # how older Pillows open 16 bits
        array = array.astype(np.uint16)
    return array


def is_deep_colour(path: Path) -> bool:
    """16 bits and more than one channel, of which Pillow keeps 8: PNG says so in its header, of TIFF it is assumed."""
    with path.open("rb") as file:
        head = file.read(26)
    if head.startswith(PNG_SIGNATURE) and len(head) == 26:
        return head[24] == 16 and head[25] != GREY_PNG
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_deep(path: Path) -> np.ndarray:
    array = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise UserError("it is damaged or cut off")
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}  # OpenCV's colours lie the other way round
    return array if array.ndim == 2 else array[..., order[array.shape[-1]]]


def read_exr(path: Path, indexed: bool) -> np.ndarray:
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


def read_npy(path: Path, indexed: bool) -> np.ndarray:
    array = np.load(path, allow_pickle=False)
    if isinstance(array, np.lib.npyio.NpzFile):
        with array as archive:
            if len(archive.files) != 1:
                raise UserError(f"it holds {len(archive.files)} arrays; expected one")
            array = archive[archive.files[0]]
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def read_hdf5(path: Path, indexed: bool) -> np.ndarray:
    import h5py

    with h5py.File(path, "r") as file:
        if "dataset" not in file:
            raise UserError(f"it has no array 'dataset', only {', '.join(file) or 'nothing'}")
        array = np.asarray(file["dataset"])
    return array.astype(np.float32) if array.dtype.kind == "f" else array


READERS: dict[str, Callable[[Path, bool], np.ndarray]] = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"), read_picture),
    ".exr": read_exr,
    ".npy": read_npy,
    ".npz": read_npy,
    ".hdf5": read_hdf5,
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


def read_colours(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A picture (H, W, 3) in [0, 1] for integer types, as stored for floats, and its alpha (H, W) in [0, 1]."""
    array = read_array(path)
    values = (array / full_scale(array)).astype(np.float32)
    values = values[..., None] if values.ndim == 2 else values
    alpha = values[..., -1] if values.shape[-1] in (2, 4) else np.ones(values.shape[:2], np.float32)
    colours = values[..., : 3 if values.shape[-1] >= 3 else 1]
    return np.broadcast_to(colours, (*colours.shape[:2], 3)), alpha
