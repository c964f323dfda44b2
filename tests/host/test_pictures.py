"""A picture of any kind is what ComfyUI's own LoadImage makes of it, to a level of 255, or right where the host is not.

WRONG_THERE says where the host's picture is not the file's, and what is right.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from diffusion_perception.trainer.perceiver import read_upright

HEIGHT, WIDTH = 24, 40
LEVEL = 1 / 255 + 1e-6
Y, X = np.mgrid[:HEIGHT, :WIDTH]
GREY = ((X + Y) / (HEIGHT + WIDTH - 2)).astype(np.float64)
"""(H, W) from 0 to 1."""
COLOURS = np.stack([GREY, X / (WIDTH - 1), 1 - Y / (HEIGHT - 1)], -1)
ALPHA = (Y / (HEIGHT - 1) * 200 + 55).round()


def eight(values: np.ndarray) -> np.ndarray:
    return (values * 255).round().astype(np.uint8)


def deep(values: np.ndarray) -> np.ndarray:
    return (values * 65535).round().astype(np.uint16)


RGB = Image.fromarray(eight(COLOURS))
RGBA = Image.fromarray(np.dstack([eight(COLOURS), ALPHA.astype(np.uint8)]))


def saved(picture: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deep_png(colour: int, *planes: np.ndarray) -> bytes:
    """16 bits, of any colour type, without a library."""
    rows = np.stack([deep(plane) for plane in planes], -1).astype(">u2").reshape(HEIGHT, -1)
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def turned(orientation: int, format: str = "JPEG", **options) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(RGB, format, exif=exif, **options)


def frames(format: str, **options) -> bytes:
    """The second frame is the first one's negative."""
    other = Image.fromarray(255 - eight(COLOURS))
    return saved(RGB, format, save_all=True, append_images=[other], **options)


def palette(transparency: int | bytes | None = None) -> bytes:
    named = {} if transparency is None else {"transparency": transparency}
    return saved(RGB.quantize(16), "PNG", **named)


def pgm(big: bool = True) -> bytes:
    return b"P5 %d %d 65535\n" % (WIDTH, HEIGHT) + deep(GREY).astype(">u2").tobytes()


PICTURES: dict[str, Callable[[], bytes]] = {
    "bits.png": lambda: saved(RGB.convert("1"), "PNG"),
    "grey.png": lambda: saved(RGB.convert("L"), "PNG"),
    "grey-alpha.png": lambda: saved(RGBA.convert("LA"), "PNG"),
    "grey-key.png": lambda: saved(RGB.convert("L"), "PNG", transparency=100),
    "palette.png": palette,
    "palette-index.png": lambda: palette(3),
    "palette-alphas.png": lambda: palette(bytes(range(0, 256, 16))),
    "two-bits.png": lambda: saved(RGB.quantize(4), "PNG", bits=2),
    "colours.png": lambda: saved(RGB, "PNG"),
    "colours-key.png": lambda: saved(RGB, "PNG", transparency=(255, 0, 0)),
    "colours-alpha.png": lambda: saved(RGBA, "PNG"),
    "colours.tif": lambda: saved(RGB, "TIFF"),
    "colours-alpha.tif": lambda: saved(RGBA, "TIFF"),
    "multiplied.tif": lambda: saved(RGBA, "TIFF", tiffinfo={338: 1}),
    "unused.tif": lambda: saved(RGB.convert("RGBX"), "TIFF"),
    "print.tif": lambda: saved(RGB.convert("CMYK"), "TIFF"),
    "print.jpg": lambda: saved(RGB.convert("CMYK"), "JPEG"),
    "video.tif": lambda: saved(RGB.convert("YCbCr"), "TIFF"),
    "lab.tif": lambda: saved(lab(), "TIFF"),
    "palette.tif": lambda: saved(RGB.quantize(16), "TIFF"),
    "palette-alpha.tif": lambda: saved(RGBA.convert("LA"), "TIFF"),
    "bits.tif": lambda: saved(RGB.convert("1"), "TIFF"),
    "squeezed.tif": lambda: saved(RGB, "TIFF", compression="tiff_lzw"),
    "pages.tif": lambda: frames("TIFF"),
    "deep.tif": lambda: saved(Image.fromarray(deep(GREY)), "TIFF"),
    "deep-big.tif": lambda: saved(big_endian(), "TIFF"),
    "whole.tif": lambda: saved(Image.fromarray(deep(GREY).astype(np.int32)), "TIFF"),
    "float.tif": lambda: saved(Image.fromarray(GREY.astype(np.float32)), "TIFF"),
    "deep-grey.png": lambda: deep_png(0, GREY),
    "deep-grey-alpha.png": lambda: deep_png(4, GREY, ALPHA / 255),
    "deep-colours.png": lambda: deep_png(2, *COLOURS.transpose(2, 0, 1)),
    "deep-colours-alpha.png": lambda: deep_png(6, *COLOURS.transpose(2, 0, 1), ALPHA / 255),
    "deep.pgm": pgm,
    "colours.ppm": lambda: saved(RGB, "PPM"),
    "colours.bmp": lambda: saved(RGB, "BMP"),
    "palette.bmp": lambda: saved(RGB.quantize(16), "BMP"),
    "colours.webp": lambda: saved(RGB, "WEBP", lossless=True),
    "colours-alpha.webp": lambda: saved(RGBA, "WEBP", lossless=True),
    "moves.webp": lambda: frames("WEBP", lossless=True),
    "moves.gif": lambda: frames("GIF"),
    "moves.png": lambda: frames("PNG"),
    "pair.jpg": lambda: frames("MPO", quality=95),
    "steps.jpg": lambda: saved(RGB, "JPEG", progressive=True),
    "colours.tga": lambda: saved(RGBA, "TGA"),
    **{f"turned-{n}.jpg": lambda n=n: turned(n) for n in range(1, 9)},
    **{f"turned-{n}.png": lambda n=n: turned(n, "PNG") for n in range(1, 9)},
    **{f"turned-{n}.webp": lambda n=n: turned(n, "WEBP", lossless=True) for n in range(1, 9)},
    **{f"turned-{n}.tif": lambda n=n: turned(n, "TIFF") for n in range(1, 9)},
}  # fmt: skip


def big_endian() -> Image.Image:
    return Image.frombytes("I;16B", (WIDTH, HEIGHT), deep(GREY).astype(">u2").tobytes())


def lab() -> Image.Image:
    from PIL import ImageCms

    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    made = ImageCms.applyTransform(RGB, ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    assert made is not None
    return made


WRONG_THERE = {
    "float.tif": (GREY, "LoadImage cuts floats of 0..1 to whole levels: all but white is black"),
    "deep.tif": (GREY, "LoadImage cuts 16 bits at 255: all but black is white"),
    "deep-big.tif": (GREY, "the same"),
    "deep-grey.png": (GREY, "the same"),
    "deep.pgm": (GREY, "LoadImage divides 16 bits by 255 where white is 255 x 257, and rounds down: 1.7 levels away"),
    "whole.tif": (GREY, "the same, of 16 bits that are stored in 32"),
}
"""{picture: (what is right (H, W), why the host's is not)}."""


@pytest.fixture(scope="module")
def loaded(inside_host, tmp_path_factory):
    """The folder of the pictures, and what LoadImage makes of each: {name: (H, W, 3)}."""
    folder: Path = inside_host.base / "input"
    folder.mkdir(exist_ok=True)
    for name, write in PICTURES.items():
        (folder / name).write_bytes(write())
    file = tmp_path_factory.mktemp("loaded") / "pictures.safetensors"
    if "by FFmpeg" in inside_host(load_images, names=list(PICTURES), file=str(file)):
        pytest.skip("this ComfyUI reads pictures with FFmpeg, which rounds and turns some otherwise than Pillow")
    return folder, load_file(file)


def load_images(names, file):
    """The first frame of each by LoadImage; nothing where it is FFmpeg that reads them."""
    import inspect

    import nodes
    from safetensors.torch import save_file

    if "VideoFromFile" in inspect.getsource(nodes.LoadImage.load_image):
        return {"by FFmpeg": True}
    found = {}
    for name in names:
        found[name] = nodes.LoadImage().load_image(name)[0][0].contiguous()
    save_file(found, file)
    return {}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_what_the_host_makes_of_it_or_right_where_that_is_wrong(loaded, name):
    folder, there = loaded
    here = read_upright(folder / name)[0].movedim(0, -1).numpy()
    if name in WRONG_THERE:
        right = np.broadcast_to(np.atleast_3d(WRONG_THERE[name][0]), here.shape)
        assert np.abs(here - right).max() <= 1e-4
        return
    assert here.shape == there[name].shape
    assert np.abs(here - there[name]).max() <= LEVEL


@pytest.mark.parametrize("name", WRONG_THERE)
def test_what_the_host_gets_wrong_is_wrong_there_still(loaded, name):
    right = np.broadcast_to(np.atleast_3d(WRONG_THERE[name][0]), (HEIGHT, WIDTH, 3))
    assert np.abs(loaded[1][name] - right).max() > LEVEL
