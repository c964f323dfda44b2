"""Intrinsic Images in the Wild: which of two points people call darker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.measure.whdr import JUDGEMENT
from ...core.perception_map import Convention
from .arrays import BrokenRecord
from .measured import Comparison, reflectance
from .records import MadeOf, Records, Sample, list_files, read_image, read_json, refuse_task, root_of

DARKER = {"1": 1.0, "2": 2.0, "E": 0.0}


class IntrinsicImagesInTheWild(Records[str]):
    """IIW: data/*.png and a *.json of judgements beside each. Its target is the table that core.measure.whdr takes."""

    comparisons = (
        Comparison(
            "whdr", "Bell et al.'s evaluation: the mean over pictures, points apart by 10 %", ("whdr",), reflectance
        ),
    )

    def __init__(self, root: str, task: str = "albedo") -> None:
        if task != "albedo":
            raise refuse_task("IIW", task, ("albedo",))
        self.root = root_of(root)
        folder = self.root / "data" if (self.root / "data").is_dir() else self.root
        pictures, faults = list_files(folder, (".png",))
        self.folder = folder.parent
        super().__init__("IIW", task, Convention(), list(pictures.values()), [fault.reason for fault in faults])

    def read(self, record: str) -> Sample:
        image, _ = read_image(self.folder / record)
        table = _judgements(self.beside(record))
        valid = torch.ones(1, table.shape[1], 1, dtype=torch.bool)
        return Sample(image, table, valid, {"dataset": self.name, "record": record})

    def beside(self, record: str) -> Path:
        return (self.folder / record).with_suffix(".json")

    def made_of(self, record: str) -> MadeOf:
        return MadeOf(record, (self.folder / record,), (self.beside(record),))


def _judgements(path: Path) -> Tensor:
    """(JUDGEMENT, N, 1) float32 of those between opaque points that people were sure of. BrokenRecord if none is."""
    told = read_json(path)
    try:
        points = {row["id"]: (row["y"], row["x"]) for row in told["intrinsic_points"] if row["opaque"]}
        rows = [_judgement(row, points) for row in told["intrinsic_comparisons"]]
        table = torch.tensor([row for row in rows if row], dtype=torch.float32)
    except (LookupError, TypeError, ValueError) as error:
        raise BrokenRecord(f"{path} holds no judgements ({error!r}).") from None
    if not len(table):
        raise BrokenRecord(f"{path} has no judgement that counts.")
    assert table.shape[1] == JUDGEMENT
    return table.T[..., None].contiguous()


def _judgement(row: dict[str, Any], points: dict[Any, tuple[float, float]]) -> tuple[float, ...]:
    """A column of the table; nothing where it does not count."""
    first, second, weight = row["point1"], row["point2"], row["darker_score"]
    if row["darker"] not in DARKER or not weight or weight <= 0 or not {first, second} <= points.keys():
        return ()
    return (*points[first], *points[second], DARKER[row["darker"]], float(weight))
