"""Clips: the frames of a video file, or of a folder of pictures, one after the other; and films that are written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import UserError
from ..core.whole_file import whole_file
from .perceiver import read_upright
from .pictures import save_picture

VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".exr")
RATE = Fraction(24)
"""Frames a second of videos that do not say it."""
Show = Callable[[str, Tensor], None]
"""Takes a frame's name and its picture (H, W, 3) in [0, 1]."""


def is_clip(path: Path) -> bool:
    """Whether a path is a folder of frames or a video."""
    return path.is_dir() or path.suffix.lower() in VIDEOS


def clip_at(path: Path) -> Folder | Video:
    """The frames of a folder or a video. UserError if there are none, or PyAV is missing."""
    return Folder.at(path) if path.is_dir() else Video.at(path)


def _natural_order(name: str) -> list[Any]:
    """Sorts frame2 before frame10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


@dataclass(frozen=True)
class Folder:
    """The pictures of a folder, in the order of their names and of the numbers in them."""

    path: Path
    pictures: tuple[Path, ...]

    @classmethod
    def at(cls, path: Path) -> Folder:
        """UserError if it has no pictures, or two of one name."""
        found = sorted(
            (file for file in path.iterdir() if file.suffix.lower() in PICTURES and not file.name.startswith(".")),
            key=lambda file: _natural_order(file.name),
        )
        if not found:
            raise UserError(f"The folder {path} has no pictures: expected files of {', '.join(PICTURES)}.")
        return cls(path, tuple(found))

    @property
    def count(self) -> int | None:
        return len(self.pictures)

    def frames(self) -> Iterator[tuple[str, Tensor]]:
        """(name, (1, 3, H, W) in [0, 1])"""
        return ((path.stem, read_upright(path)) for path in self.pictures)

    def names(self) -> list[str]:
        """Of what is written about its frames, without their endings."""
        return [path.stem for path in self.pictures]

    def files(self) -> list[Path]:
        """That are read."""
        return list(self.pictures)

    @contextmanager
    def film(self, out: Path) -> Iterator[Show]:
        """Shows each frame as <name>.png."""
        yield lambda name, picture: save_picture(picture, out / name)


@dataclass(frozen=True)
class Video:
    """The frames of a video file; what is written about them lies in a folder of its name, numbered from 1."""

    path: Path
    count: int | None
    """None where the file does not say it."""
    rate: Fraction

    @classmethod
    def at(cls, path: Path) -> Video:
        """UserError if it is no video."""
        if find_spec("av") is None:
            raise UserError(f"{path.name} is a video, which needs the package av: pip install av")
        with _open_video(path) as (_, stream):
            return cls(path, stream.frames or None, stream.average_rate or RATE)

    def frames(self) -> Iterator[tuple[str, Tensor]]:
        """(name, (1, 3, H, W) in [0, 1]), upright as its camera says. UserError if a frame cannot be read."""
        from av.error import FFmpegError

        with _open_video(self.path) as (container, stream):
            try:
                for number, frame in enumerate(container.decode(stream), 1):
                    yield f"{self.path.stem}/{self.path.stem}.{number:04}", frame_colours(frame)
            except FFmpegError as error:
                raise UserError(f"{self.path.name} is damaged ({error.strerror}): give a whole video.") from None

    def names(self) -> list[str]:
        """What is known of them before the video is read."""
        return [f"{self.path.stem}/{self.path.stem}.{number + 1:04}" for number in range(self.count or 0)]

    def files(self) -> list[Path]:
        """That are read."""
        return [self.path]

    @contextmanager
    def film(self, out: Path) -> Iterator[Show]:
        """Shows the frames as <name>.mp4."""
        with film(out / f"{self.path.stem}.mp4", self.rate) as add:
            yield lambda name, picture: add(picture)


@contextmanager
def _open_video(path: Path) -> Iterator[tuple[Any, Any]]:
    """A video file and its first stream of pictures."""
    import av
    from av.error import FFmpegError

    try:
        container = av.open(str(path))
    except FFmpegError as error:
        raise UserError(f"{path.name} is not a video that can be read ({error.strerror}).") from None
    with container:
        if not container.streams.video:
            raise UserError(f"{path.name} holds no pictures: give a video.")
        yield container, container.streams.video[0]


def frame_colours(frame: Any) -> Tensor:
    """A frame of PyAV -> (1, 3, H, W) in [0, 1], with all its bits."""
    deep = max(component.bits for component in frame.format.components) > 8
    array = frame.to_ndarray(format="rgb48le" if deep else "rgb24").astype(np.float32) / (65535 if deep else 255)
    upright = np.rot90(array, getattr(frame, "rotation", 0) // 90)
    return torch.from_numpy(np.ascontiguousarray(upright)).movedim(-1, 0)[None]


@contextmanager
def film(path: Path, rate: Fraction) -> Iterator[Callable[[Tensor], None]]:
    """An H.264 file that takes pictures (H, W, 3) in [0, 1]; whole or not at all."""
    import av

    with whole_file(path) as partial, av.open(str(partial), "w", format="mp4") as container:
        # placed in the header as well, so that players do not guess: BT.709, from 16 to 235
        stream: Any = container.add_stream("libx264", rate=rate, options={"crf": "12"})
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = BT709
        context.color_range = LIMITED

        def add(picture: Tensor) -> None:
            levels = np.ascontiguousarray((picture.clamp(0, 1) * 255).round().byte().numpy())
            frame = av.VideoFrame.from_ndarray(levels, "rgb24")
            if not context.is_open:
                stream.width, stream.height = frame.width, frame.height
                # with half the colours, which all players read, where the size allows it
                stream.pix_fmt = "yuv444p" if frame.width % 2 or frame.height % 2 else "yuv420p"
            planes = frame.reformat(
                format=stream.pix_fmt, dst_colorspace=BT709, src_color_range=FULL, dst_color_range=LIMITED
            )
            container.mux(stream.encode(planes))

        yield add
        container.mux(stream.encode(None))


BT709, LIMITED, FULL = 1, 1, 2
"""As H.273 numbers matrices, and FFmpeg ranges."""
