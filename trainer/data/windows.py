"""Windows: the part of a dataset's pictures that a run sees, cut out before anything else happens to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ..config import ConfigError, Source
from .arrays import BrokenRecord
from .augment import crop
from .pairs import Cut
from .people import People
from .records import Records, Sample

PLACES: dict[str, Callable[..., Cut]] = {"middle": Cut.middle, "bottom": Cut.bottom}
"""By what a dataset's crop_at says."""
TRIED = 20
"""Records among which the first that can be read is looked for."""


@dataclass(frozen=True)
class Window:
    """What is kept of a record; the camera follows."""

    size: tuple[int, int]
    """(H, W) in pixels of the record."""
    at: Literal["middle", "bottom"] = "middle"

    def __call__(self, sample: Sample) -> Sample:
        """BrokenRecord if the picture is smaller, or nothing of the window is valid."""
        where = f"{sample.meta['dataset']}: {sample.meta['record']}"
        kept = crop(sample, *PLACES[self.at](sample.image, self.size, where))
        if not kept.valid.any():
            raise BrokenRecord(f"{where}: no pixel of its truth is valid inside the crop.")
        return kept


def cut_out(source: Source, records: Records[Any]) -> Records[Any]:
    """The dataset, of whose pictures the source's window is kept. ConfigError for people, and where it is too large."""
    if not source.crop:
        return records
    if isinstance(records, People):
        raise ConfigError(f"{source.root} has people, who are cut out around their boxes: leave its crop out.")
    height, width = source.crop
    _check_window(source, records)
    return records.through(Window((height, width), source.crop_at))


def _check_window(source: Source, records: Records[Any]) -> None:
    """ConfigError if a picture is smaller than the window. One is looked at: a single small one among others is a
    broken record like any other."""
    first = next(_readable(records), None)
    if first is None:
        return  # what is wrong with them is said when they are learnt
    (height, width), (rows, columns) = source.crop, first.image.shape[-2:]
    if height > rows or width > columns:
        raise ConfigError(
            f"crop = {list(source.crop)} of {source.root} is larger than its pictures: {first.meta['record']} is "
            f"{rows} high and {columns} wide."
        )


def _readable(records: Records[Any]) -> Iterator[Sample]:
    """Records that can be read, of the first few."""
    for index in range(min(len(records), TRIED)):
        try:
            yield records[index]
        except BrokenRecord:
            continue
