"""Results: the figures of each model on each set, with their protocol; as a table, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...core.display.colour import palette_named
from ...core.measure.metrics import Metric, confusion
from ...core.whole_file import write_whole
from ..data.batches import Feed
from ..data.measured import Comparison
from ..scoring import Sums, metric_named
from .contenders import Contender

FORMAT = 1
"""Of evaluation.json."""
WORDS = {
    "least-square": "scale and shift of each picture's depth by least squares",
    "least-square-disparity": "scale and shift of each picture's disparity by least squares, then inverted",
    "least-square-sqrt-disparity": "scale and shift of each picture's root disparity by least squares, then inverted",
    "least-square-log": "scale and shift of each picture's logarithm of depth by least squares",
    "scale": "scale of each picture's depth by least squares",
    "none": "nothing aligned",
}
"""By rows of core.measure.align.ALIGNMENTS."""


class Seen(NamedTuple):
    """What was found of one picture."""

    index: int
    record: str
    fault: str
    """Why nothing was."""
    values: dict[str, float]
    """{metric: its own figure}."""


@dataclass(frozen=True)
class Result:
    """One comparison of one model on one set."""

    contender: Contender
    data: str
    """The set, as it was asked for."""
    feed: Feed
    comparison: Comparison
    lines: Sequence[Seen]
    """Of all pictures, in their order."""
    sums: Sums
    """What they add up to."""
    resolution: int = -1
    """At which pictures were processed."""
    lacks: str = ""
    """What of the published set is not there."""

    @property
    def measured(self) -> list[Seen]:
        return [line for line in self.lines if line.values]

    @property
    def faults(self) -> list[Seen]:
        """Pictures without a figure."""
        return [line for line in self.lines if line.fault]

    @property
    def skipped(self) -> int:
        """All that are in the set and were not measured, those too that were found broken while it was listed."""
        return len(self.faults) + len(self.feed.records.faults)

    def values(self) -> dict[str, float]:
        """{metric: value}, NaN where nothing was measured."""
        found = self.sums.values()
        return {name: found.get(name, math.nan) for name in self.comparison.metrics}

    def protocol(self) -> str:
        """How the figures were made, in words."""
        said = [self.comparison.title, *self.distances_said(), self.resolution_said()]
        return "; ".join(filter(None, said))

    def distances_said(self) -> Iterator[str]:
        recipe, protocol = self.feed.recipe, self.feed.records.protocol
        if recipe.row.near is None or self.comparison.name != "aligned":
            return
        yield WORDS["none" if recipe.metric else recipe.row.align]
        if protocol.max_edge is not None:
            yield f"fitted on columns thinned out to a longer edge of {protocol.max_edge}"
        low, high = protocol.depth_range
        if (low, high) != (0.0, np.inf):
            yield f"clipped to {low:g} - {high:g} m" if math.isfinite(high) else f"clipped from {low:g} m on"

    def resolution_said(self) -> str:
        said = {-1: "as trained", 0: "of the picture"}
        return f"processing resolution {said.get(self.resolution, f'{self.resolution} pixels')}"

    def classes(self) -> list[tuple[str, float, float]]:
        """(name, IoU, share found) of every class that occurs, where classes are compared."""
        part = next((p for name, p in self.sums.parts.items() if metric_named(name).measure is confusion), None)
        if part is None:
            return []
        matrix = part.total
        right, union = matrix.diagonal(), matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
        names = self.class_names()
        return [
            (names[i] if i < len(names) else str(i), (right / union)[i].item(), (right / matrix.sum(1))[i].item())
            for i in union.nonzero()[:, 0].tolist()
        ]

    def class_names(self) -> tuple[str, ...]:
        recipe = self.feed.recipe
        if recipe.palette:
            return palette_named(recipe.palette).classes
        return self.feed.records.palette.classes if self.feed.records.palette else ()


# Tables


def headed(row: Metric) -> str:
    unit = f" [{row.unit}]" if row.unit else ""
    return f"{row.title}{unit} {'↑' if row.higher else '↓'}"


def shown_number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4g}"


def grouped(results: Sequence[Result]) -> dict[tuple[str, str, str], list[Result]]:
    """By set, task and comparison: figures of two protocols never share a column."""
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.data, result.contender.recipe.task, result.comparison.name), []).append(result)
    return groups


def table(results: Sequence[Result]) -> str:
    """For a console."""
    return "\n\n".join(block(*key, rows) for key, rows in grouped(results).items())


def block(data: str, task: str, comparison: str, results: Sequence[Result]) -> str:
    metrics = [metric_named(name) for name in results[0].comparison.metrics]
    heads = ["", *map(headed, metrics), "pictures", "left out"]
    rows = [[r.contender.title, *map(shown_number, r.values().values()), str(len(r.measured)), str(r.skipped)]
            for r in results]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(heads, *rows)]
    lines = ["  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths)))
             for row in (heads, *rows)]  # fmt: skip
    protocols = dict.fromkeys(result.protocol() for result in results)
    return "\n".join([f"{data}: {task}", *(f"  {text}" for text in protocols), *lines])


# Files


def as_json(results: Iterable[Result]) -> dict[str, Any]:
    """Plain data; the same for the same figures, whenever and by however many processes they were made."""
    return {"format": FORMAT, "results": [_one_as_json(result) for result in results]}


def _one_as_json(result: Result) -> dict[str, Any]:
    classes = result.classes()
    return {
        "model": result.contender.name,
        "recipe": result.contender.recipe.id,
        "task": result.contender.recipe.task,
        "data": result.data,
        "comparison": result.comparison.name,
        "protocol": result.protocol(),
        "metrics": {name: number(value) for name, value in result.values().items()},
        "pictures": len(result.measured),
        "left_out": [{"record": line.record, "why": line.fault} for line in result.faults]
        + [{"record": "", "why": fault} for fault in result.feed.records.faults],
        **({"incomplete": result.lacks} if result.lacks else {}),
        **({"classes": {name: {"iou": number(iou), "accuracy": number(found)} for name, iou, found in classes}}
           if classes else {}),
    }  # fmt: skip


def number(value: float) -> float | None:
    """JSON knows neither NaN nor infinity."""
    return value if math.isfinite(value) else None


COLUMNS = ("model", "recipe", "task", "data", "comparison", "protocol", "metric", "unit", "better", "value", "pictures",
           "left out")  # fmt: skip
OF_PICTURES = ("model", "recipe", "data", "comparison", "record", "metric", "value")


def as_rows(results: Iterable[Result]) -> Iterator[list[str]]:
    """evaluation.csv: a figure a row."""
    yield list(COLUMNS)
    for r in results:
        named = [r.contender.name, r.contender.recipe.id, r.contender.recipe.task, r.data, r.comparison.name]
        for name, value in r.values().items():
            row = metric_named(name)
            better = "higher" if row.higher else "lower"
            counts = [str(len(r.measured)), str(r.skipped)]
            yield [*named, r.protocol(), name, row.unit, better, repr(value), *counts]


def pictures_as_rows(results: Iterable[Result]) -> Iterator[list[str]]:
    """pictures.csv: a figure of a picture a row."""
    yield list(OF_PICTURES)
    for r in results:
        named = [r.contender.name, r.contender.recipe.id, r.data, r.comparison.name]
        for line in r.measured:
            for name, value in line.values.items():
                if not math.isnan(value):
                    yield [*named, line.record, name, repr(value)]


def write_csv(path: Path, rows: Iterable[Sequence[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_whole(path, text.getvalue().encode())


def write_json(path: Path, content: Any) -> None:
    write_whole(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
