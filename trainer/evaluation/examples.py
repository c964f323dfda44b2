"""Examples: the pictures that a model does best and worst, with what it predicted, the truth, and where it errs."""

from __future__ import annotations

import binascii
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...core.display.picture import ready
from ...core.perception_map import PerceptionMap
from ..data.batches import Feed
from ..data.measured import Comparison
from ..data.records import Sample
from ..scoring import metric_named
from .contenders import Predictor
from .results import Result, Seen

EDGE = 320
"""Longest edge of a picture in the report."""
UNKNOWN = (0.25, 0.3, 0.4)
"""Colour of errors where there is no truth."""


class Shown(NamedTuple):
    """One picture of an example."""

    title: str
    data: str
    """As the address of an <img>."""


@dataclass(frozen=True)
class Example:
    """One record, and what its figure is."""

    record: str
    value: float
    pictures: list[Shown]


Examples = Mapping[int, Mapping[str, Sequence[Example]]]
"""{id of a result: {Best or Worst: its examples}}."""


def examples_of(results: Sequence[Result], count: int, device: str) -> Examples:
    """Of each model on each set, by the first way in which they are compared. A model is opened once."""
    found = {}
    for contender in {id(result.contender): result.contender for result in results}.values():
        predictor = None
        for result in results:
            if count and result.contender is contender and result.measured and _is_first(result):
                predictor = predictor or contender.open(device)
                lines = zip(("Best", "Worst"), chosen(result, count))
                found[id(result)] = {title: list(_examples(result, its, predictor)) for title, its in lines}
    return found


def _is_first(result: Result) -> bool:
    """The same pictures under another protocol need not be seen again."""
    return result.comparison == (result.feed.records.comparisons or result.feed.data.compared())[0]


def _ranked(result: Result) -> list[Seen]:
    """Measured pictures, best first, by the comparison's first metric."""
    metric = metric_named(result.comparison.metrics[0])
    known = [(line.values[metric.name], line) for line in result.measured]
    numbers = [(value, line) for value, line in known if not math.isnan(value)]
    return [
        line for _, line in sorted(numbers, key=lambda pair: (-pair[0] if metric.higher else pair[0], pair[1].index))
    ]


def chosen(result: Result, count: int) -> tuple[list[Seen], list[Seen]]:
    """The best and the worst, no picture twice."""
    order = _ranked(result)
    best = order[: min(count, (len(order) + 1) // 2)]
    return best, order[len(best) :][::-1][:count]


def _examples(result: Result, lines: Sequence[Seen], predictor: Predictor) -> Iterator[Example]:
    """What is shown of these pictures; predicted once more, which gives the same."""
    for line in lines:
        sample = result.feed.records[line.index]
        values = predictor(sample.image[None], result.resolution).float().cpu()
        value = line.values[result.comparison.metrics[0]]
        yield Example(line.record, value, list(pictures(values, sample, result.feed, result.comparison)))


def pictures(values: Tensor, sample: Sample, feed: Feed, comparison: Comparison) -> Iterator[Shown]:
    """Input, prediction, truth, errors."""
    seen = PerceptionMap(feed.recipe.task, values.movedim(1, -1), feed.recipe.convention(), feed.recipe.id)
    yield Shown("input", _as_address(sample.image.movedim(0, -1), "JPEG"))
    yield Shown("prediction", _as_address(ready(seen)[0][0]))
    if feed.records.comparisons:  # whose truth is no map
        return
    truth, valid = feed.supervision.normalise(sample)
    shown = replace(seen, values=truth.movedim(0, -1)[None], valid=valid)
    yield Shown("truth", _as_address(ready(shown)[0][0]))
    compared = (comparison.prepare or feed.data.prepare)(values, sample, feed.supervision)
    if compared is not None:
        error = comparison.error.measure(compared.prediction.float(), compared.target.float())[0]
        yield Shown(comparison.error.title, _as_address(_heat(error / comparison.error.top, compared.valid[0, 0])))


def _heat(share: Tensor, known: Tensor) -> Tensor:
    """0 to 1 (H, W) -> black, red, yellow, white (H, W, 3)."""
    stops = (share.nan_to_num(nan=1.0, posinf=1.0).clamp(0, 1) * 3)[..., None] - torch.arange(3)
    return torch.where(known[..., None], stops.clamp(0, 1), torch.tensor(UNKNOWN))


def _as_address(picture: Tensor, kind: str = "PNG") -> str:
    """(H, W, 3) in [0, 1] -> a data: address, made smaller if it is large."""
    levels = (picture.clamp(0, 1) * 255).round().byte().numpy()
    image = Image.fromarray(np.ascontiguousarray(levels))
    image.thumbnail((EDGE, EDGE), Image.Resampling.BOX)
    held = io.BytesIO()
    image.save(held, kind, **({"quality": 88} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{binascii.b2a_base64(held.getvalue(), newline=False).decode()}"
