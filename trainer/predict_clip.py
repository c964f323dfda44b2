"""`predict` of a folder of frames or a video: in one pass what was seen, in a second its pictures by one range.

Of a clip of any length one frame is held at a time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..core.display.clip import Range, picture_in
from ..core.display.map_files import FORMATS, pages
from ..core.display.steady import SAME, Steadying, within
from ..core.errors import UserError
from ..core.perception_map import PerceptionMap
from ..core.whole_file import write_whole
from .clips import Folder, Video

See = Callable[[Tensor], PerceptionMap]
"""Takes a frame (1, 3, H, W) in [0, 1]."""
RAW = {"npy": "npy", "exr": "exr32 zip", "exr-half": "exr16 zip"}
"""What `--format` calls the rows of FORMATS."""


def predict_clip(see: See, clip: Folder | Video, out: Path, format: str, strength: float) -> None:
    """Each frame's raw values, <name>.npy or in another format; and its pictures, as files or as one video.

    strength: by which a depth is steadied; 0 leaves the frames as they are.
    """
    steadying = Steadying(strength) if strength else None
    span, names, frame = Range(), [], None
    out.mkdir(parents=True, exist_ok=True)
    with _kept_in(out, format) as kept:
        for name, picture in tqdm(clip.frames(), total=clip.count, desc=clip.path.name, leave=False):
            frame = see(picture)
            frame = steadying.add(frame) if steadying else frame
            span.add(frame)
            names.append(name)
            # at once, so that what was seen is there if the rest is cancelled
            for folder, kind in {(out, format), (kept, "npy")}:
                write_raw(frame, folder / name, kind)
        if frame is None:
            raise UserError(f"{clip.path.name} has no frames: give a video that has some.")
        line = within(span.ends, frame.convention) if steadying else SAME
        with clip.film(out) as show:
            for name in tqdm(names, desc=f"pictures of {clip.path.name}", leave=False):
                frame = replace(frame, values=line(_read_numbers(kept / name)))
                if line != SAME:
                    write_raw(frame, out / name, format)
                show(name, picture_in(frame, span.after(line))[0])


def _kept_in(out: Path, format: str) -> AbstractContextManager[Path]:
    """Where raw values are read again for the pictures: where they are written, or, of another format, for a while."""
    return nullcontext(out) if format == "npy" else _temporary(out)


@contextmanager
def _temporary(out: Path) -> Iterator[Path]:
    """A folder in another one, gone afterwards."""
    with tempfile.TemporaryDirectory(dir=out, prefix=".frames") as folder:
        yield Path(folder)


def write_raw(map: PerceptionMap, stem: Path, format: str) -> None:
    """The raw values of a map of one image, in a row of RAW; folders are made."""
    row = FORMATS[RAW[format]]
    stem.parent.mkdir(parents=True, exist_ok=True)
    (page,) = pages(map)
    write_whole(stem.with_name(stem.name + row.suffix), row.encode(page, ()))


def _read_numbers(stem: Path) -> Tensor:
    """(1, H, W, C) of what was written as NumPy."""
    values = torch.from_numpy(np.load(stem.with_name(stem.name + ".npy")))
    return (values if values.ndim == 3 else values[..., None])[None]
