"""Scoring: predictions and their truth -> metrics. The one loop of validation, of `evaluate` and of the benchmarks.

Every picture gives each metric a Reduction of its own (`Ruler.measure`), which adds up to the set's (`Sums`): so
pictures may be measured in any order, by any number of processes, and before or after a run was stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from torch import Tensor

from ..core.errors import UserError
from ..core.measure.losses import Reduction
from ..core.measure.metrics import METRICS, Metric
from ..core.measure.whdr import WHDR
from .data.batches import Feed
from .data.measured import Prepare
from .data.records import Sample
from .hce import HCE
from .keypoint_ap import AP_ROWS

MORE: dict[str, Metric] = {HCE.name: HCE, WHDR.name: WHDR, **AP_ROWS}
"""Metrics that need more than core may import, whose truth is no map, or that are of a whole set at once."""

Predicted = tuple[Tensor, Sample, Feed]
"""Values (1, C, H, W) as predicted, the record, where it comes from."""
Parts = Mapping[str, Reduction]
"""What one picture adds to each metric, by the metrics' names."""


NEEDS = {"hce": ("skimage", "scikit-image")}
"""{metric: the package that it needs besides, and what that is installed as}"""


def check_metric_packages(names: Iterable[str]) -> None:
    """UserError if a metric needs a package that is not installed."""
    for name in names:
        package, installed_as = NEEDS.get(name, ("torch", "torch"))
        if find_spec(package) is None:
            raise UserError(f"The metric {name} needs the package {installed_as}: pip install {installed_as}")


def metric_named(name: str) -> Metric:
    """A row of METRICS or of MORE."""
    return MORE[name] if name in MORE else METRICS[name]


@dataclass(frozen=True)
class Ruler:
    """Which metrics are taken of predictions, and in which units."""

    names: tuple[str, ...]
    """Rows of METRICS or of MORE."""
    prepare: Prepare | None = None
    """How a prediction and its truth become comparable; None is the task's own way."""

    @property
    def rows(self) -> list[Metric]:
        return [metric_named(name) for name in self.names]

    def measure(self, values: Tensor, sample: Sample, feed: Feed) -> dict[str, Reduction] | None:
        """What a prediction adds to each metric; None if it cannot be compared with its truth."""
        prepare = self.prepare or feed.data.prepare
        seen = prepare(values, sample, feed.supervision)
        if seen is None:
            return None
        # several metrics may come of the same sums
        made = {row.measure: row.measure(seen.prediction, seen.target, seen.valid) for row in self.rows}
        return {row.name: made[row.measure] for row in self.rows}


class Sums:
    """What pictures add up to."""

    def __init__(self) -> None:
        self.parts: dict[str, Reduction] = {}

    def add(self, parts: Parts) -> None:
        """One more picture's."""
        for name, part in parts.items():
            self.parts[name] = self.parts[name] + part if name in self.parts else part

    def values(self) -> dict[str, float]:
        """{metric: value} of everything that was added; a metric that nothing was added to is left out."""
        return {name: metric_named(name).value(part) for name, part in self.parts.items()}


def score(names: Iterable[str], predictions: Iterable[Predicted], prepare: Prepare | None = None) -> dict[str, float]:
    """{metric: value} over all predictions that can be compared with their truth; names: see `metric_named`."""
    ruler, sums = Ruler(tuple(names), prepare), Sums()
    for values, sample, feed in predictions:
        sums.add(ruler.measure(values, sample, feed) or {})
    return sums.values()
