"""`evaluate`: models on datasets -> figures, by the papers' protocols, and a report.

Pictures are shared out among the processes of a launch by torchrun; what each has measured lies in `out` at once, so
that the same command goes on after a stop. Pictures that cannot be measured are named and counted, and the run goes on.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import Tensor
from tqdm import tqdm

from ..core.crops import Box
from ..core.errors import UserError
from ..core.measure.losses import Reduction
from .data.archives import lacking
from .data.arrays import BrokenRecord
from .data.batches import Feed, number_of
from .data.measured import Comparison
from .data.people import People
from .data.records import Records, Sample
from .data.truth import DatasetError, NoTruth
from .evaluation import report
from .evaluation.contenders import Asked, Contender, OfCheckpoint, Predictor, contenders_of
from .evaluation.examples import examples_of
from .evaluation.ledger import Ledger, Line
from .evaluation.results import Result, Seen, as_json, as_rows, pictures_as_rows, table, write_csv, write_json
from .evaluation.sets import NamedSet, feed_of, set_named
from .host import device_named
from .keypoint_ap import precision_parts
from .scoring import Ruler, Sums, check_metric_packages, metric_named

log = logging.getLogger(__name__)

PATIENCE = timedelta(days=2)
"""How long processes wait for the slowest."""
MOST_NAMED = 20
"""Pictures left out that are named on the console; all are in the files."""


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` is asked for."""

    models: Sequence[str]
    data: Sequence[str]
    out: Path
    asked: Asked
    images: int = 0
    """At most so many pictures of a set, its first ones; 0 is all."""
    resolution: int | None = None
    """In place of the sets' own: -1 as trained, 0 the picture's, or pixels."""
    examples: int = 3
    """Best and worst pictures in the report."""
    device: str = ""


@dataclass(frozen=True)
class Pair:
    """A model and a set that has truth of its task."""

    contender: Contender
    named: NamedSet
    feed: Feed
    resolution: int
    """At which pictures are processed."""
    count: int
    """How many of the records are measured."""

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        return self.feed.records.comparisons or self.feed.data.compared()

    def ledger(self, out: Path, process: int = 0) -> Ledger:
        """What was measured of it, by anything that its figures depend on."""
        records = self.feed.records
        compared = [(row.name, row.metrics) for row in self.comparisons]
        model = (self.contender.identity, self.contender.recipe, self.feed.options, self.resolution)
        return Ledger(out / "measured", (model, self.feed.origin, records.protocol, compared), process)

    @cached_property
    def marks(self) -> list[int]:
        """What the files of each record are now."""
        return [number_of(self.feed.records.made_of(record).marks()) for record in self.feed.records.records]


def evaluate_all(wanted: Evaluation) -> int:
    """Measure, write, say. 1 if something could not be measured, else 0. UserError for what a person can mend."""
    pairs, notes = _pairs_of(wanted)
    state = PartialState(cpu=device_named(wanted.device) == "cpu", timeout=PATIENCE)
    device = str(state.device) if state.num_processes > 1 else device_named(wanted.device)
    wanted.out.mkdir(parents=True, exist_ok=True)
    for contender in dict.fromkeys(id(pair.contender) for pair in pairs):
        measure([pair for pair in pairs if id(pair.contender) == contender], wanted.out, device, state)
    state.wait_for_everyone()
    return _conclude(wanted, pairs, notes, device) if state.is_main_process else 0


def _pairs_of(wanted: Evaluation) -> tuple[list[Pair], list[str]]:
    """Every model with every set that has truth of its task, and a sentence on each that does not go together."""
    if min(wanted.images, wanted.examples) < 0:
        raise UserError("--images and --examples count pictures: give 0 or more.")
    if wanted.out.exists() and not wanted.out.is_dir():
        raise UserError(f"--out {wanted.out} is a file: give a folder.")
    sets = [set_named(text) for text in dict.fromkeys(wanted.data)]
    contenders = contenders_of(wanted.models, wanted.asked)
    pairs, notes = [], []
    for named in sets:
        found, reasons = _pairs_with(named, contenders, wanted)
        if not found:
            raise UserError(next(iter(reasons)))
        pairs += found
        notes += reasons
    check_metric_packages({metric for pair in pairs for row in pair.comparisons for metric in row.metrics})
    return pairs, notes


def _pairs_with(named: NamedSet, contenders: Sequence[Contender], wanted: Evaluation) -> tuple[list[Pair], list[str]]:
    """Those of one set, and why there are no others, once each. DatasetError if the set itself is at fault."""
    pairs, reasons = [], []
    open_once = cache(named.open)
    for contender in contenders:
        try:
            pairs.append(_pair_of(named, open_once(contender.recipe.task), contender, wanted))
        except UserError as error:
            if isinstance(error, DatasetError) and not isinstance(error, NoTruth):
                raise
            reasons.append(str(error))
    return pairs, list(dict.fromkeys(reasons))


def _pair_of(named: NamedSet, records: Records[Any], contender: Contender, wanted: Evaluation) -> Pair:
    feed = feed_of(named, records, contender.recipe)
    resolution = feed.records.protocol.resolution if wanted.resolution is None else wanted.resolution
    count = min(len(feed.records), wanted.images or len(feed.records))
    return Pair(contender, named, feed, resolution, count)


# Measuring


def measure(pairs: Sequence[Pair], out: Path, device: str, state: PartialState) -> None:
    """This process's share of what one model has not been measured on yet."""
    predictor: Predictor | None = None
    for pair in pairs:
        ledger = pair.ledger(out, state.process_index)
        known = ledger.places()
        # before the others write; shares must be of the same list
        state.wait_for_everyone()
        left = [i for i in range(pair.count) if i not in known or known[i].mark != pair.marks[i]]
        mine = left[state.process_index :: state.num_processes]
        said = f"{pair.contender.title} on {pair.named.text}"
        for index in tqdm(mine, desc=said, disable=not state.is_main_process or None, leave=False):
            predictor = predictor or pair.contender.open(device)
            ledger.write(measured(pair, index, predictor))


def measured(pair: Pair, index: int, predictor: Predictor) -> Line:
    """One picture's line; why there are no figures if it is broken, has no truth, or nothing finite was predicted."""
    name, mark = pair.feed.records.made_of(pair.feed.records.records[index]).name, pair.marks[index]
    try:
        sample = pair.feed.records[index]
        values = finite(predictor(sample.image[None], pair.resolution), sample)
    except UserError as fault:
        return Line(index, name, mark, str(fault))
    rulers = {row.name: Ruler(row.metrics, row.prepare) for row in pair.comparisons}
    parts = {key: ruler.measure(values, sample, pair.feed) for key, ruler in rulers.items()}
    known = {key: part for key, part in parts.items() if part is not None}
    return Line(index, name, mark, parts=known, pose=_pose_of(pair, index, predictor))


def _pose_of(pair: Pair, index: int, predictor: Predictor) -> dict[str, Any] | None:
    """Of a person in the whole picture; None for all other records and models."""
    people = pair.feed.records
    if not isinstance(people, People) or not isinstance(predictor, OfCheckpoint):
        return None
    person = people.records[index]
    return predictor.pose(people.root / person.image, Box(*person.box))


def finite(values: Tensor, sample: Sample) -> Tensor:
    """BrokenRecord for a prediction that holds NaN or infinity where there is truth."""
    values = values.float().cpu()
    where = sample.valid[None].expand_as(values) if values.shape[-2:] == sample.valid.shape[-2:] else True
    wrong = int((~values.isfinite() & where).sum())
    if wrong:
        raise BrokenRecord(f"{sample.meta.get('record')}: the prediction holds {wrong} values that are no numbers.")
    return values


# What came of it


def _conclude(wanted: Evaluation, pairs: Sequence[Pair], notes: Sequence[str], device: str) -> int:
    """The files, the table, and the exit code."""
    results = list(_results_of(pairs, wanted.out))
    write_json(wanted.out / "evaluation.json", as_json(results))
    write_csv(wanted.out / "evaluation.csv", as_rows(results))
    write_csv(wanted.out / "pictures.csv", pictures_as_rows(results))
    seen = examples_of(results, wanted.examples, device)
    report.write(wanted.out / "report.html", results, notes, seen)
    sys.stdout.write(table(results) + "\n")
    for note in notes:
        sys.stderr.write(f"diffusion-perception: left out: {note}\n")
    return _say_faults(results)


def _results_of(pairs: Sequence[Pair], out: Path) -> Iterator[Result]:
    for pair in pairs:
        lines = list(pair.ledger(out).lines(pair.count)) if isinstance(pair.feed.records, People) else []
        added = _added_up(lines or pair.ledger(out).lines(pair.count), pair.comparisons)
        if isinstance(pair.feed.records, People):
            added["coco"] = _ranked_people(pair.feed.records, lines)
        there = len(pair.feed.records) + len(pair.feed.records.faults)
        lacks = lacking(pair.named.reader, pair.named.settings, there)
        for comparison in pair.comparisons:
            result = Result(
                pair.contender, pair.named.text, pair.feed, comparison, *added[comparison.name], pair.resolution, lacks
            )
            if result.measured or comparison is pair.comparisons[0]:
                yield result


def _added_up(lines: Iterable[Line], comparisons: Sequence[Comparison]) -> dict[str, tuple[list[Seen], Sums]]:
    """{comparison: what was found of each picture, and of all}."""
    found: dict[str, tuple[list[Seen], Sums]] = {row.name: ([], Sums()) for row in comparisons}
    for line in lines:
        for name, (seen, sums) in found.items():
            parts = line.parts.get(name, {})
            sums.add(parts)
            seen.append(Seen(line.index, line.record, line.fault, {key: _value_of(key, p) for key, p in parts.items()}))
    return found


def _ranked_people(people: People, lines: Sequence[Line]) -> tuple[list[Seen], Sums]:
    """COCO's figures of all poses at once; a single picture has none."""
    sums = Sums()
    sums.add(precision_parts(people, [line.pose for line in lines]))
    none = dict.fromkeys(sums.parts, math.nan)
    return [Seen(line.index, line.record, line.fault, none if line.pose else {}) for line in lines], sums


def _value_of(metric: str, part: Reduction) -> float:
    return metric_named(metric).value(part)


def _say_faults(results: Sequence[Result]) -> int:
    """Name what was not measured, on standard error. 1 if there is any."""
    said = {f"{r.contender.title} on {r.data}: {line.record}: {line.fault}" for r in results for line in r.faults}
    listed = {f"{r.data}: {fault}" for r in results for fault in r.feed.records.faults}
    every = sorted(said) + sorted(listed)
    for text in every[:MOST_NAMED]:
        sys.stderr.write(f"diffusion-perception: not measured: {text}\n")
    if len(every) > MOST_NAMED:
        sys.stderr.write(f"diffusion-perception: and {len(every) - MOST_NAMED} more, which the report names\n")
    for text in dict.fromkeys(f"{result.data}: {result.lacks}" for result in results if result.lacks):
        sys.stderr.write(f"diffusion-perception: incomplete: {text}\n")
    return 1 if every else 0
