"""Mixing: batches by weight that no number of workers, processes or interruptions changes."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffusion_perception.core.geometry import NORMAL_AXES
from diffusion_perception.core.perception_map import Convention
from diffusion_perception.trainer.arrays import BrokenRecord
from diffusion_perception.trainer.augment import Augmentation
from diffusion_perception.trainer.data import PlainFolder, Records, Sample
from diffusion_perception.trainer.mixing import (
    Batch,
    Draw,
    InOrder,
    Loader,
    MixedBatches,
    Mixture,
    Preparation,
    Tally,
    collate,
)
from diffusion_perception.trainer.targets import TargetOptions
from diffusion_perception.trainer.truth import DatasetError, Truth


class Numbers(Records[int]):
    """Records that know their number; negative ones are broken."""

    def __init__(self, name: str, numbers: list[int], task: str = "depth", size: int = 16) -> None:
        self.size = size
        super().__init__(name, task, Convention(high=None, near="low", metric=True), numbers)

    def read(self, record: int) -> Sample:
        if record < 0:
            raise BrokenRecord(f"{self.name}: {record} is broken.")
        values = torch.arange(1.0, self.size**2 + 1).view(1, self.size, self.size) + record
        truth = Truth(values, torch.ones(1, self.size, self.size, dtype=torch.bool))
        return self.sample(str(record), torch.full((3, self.size, self.size), record / 100), truth)


def batches_of(lengths: list[int], weights: list[float], size: int, **settings: int) -> MixedBatches:
    return MixedBatches(lengths, weights, size, **settings)


def first(batches: MixedBatches, count: int) -> list[list[Draw]]:
    return list(itertools.islice(batches, count))


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(1, 9), st.integers(0, 99), st.integers(1, 40))
def test_a_datasets_records_come_without_replacement(lengths, size, seed, count):
    batches = batches_of(lengths, [1.0] * len(lengths), size, seed=seed)
    draws = [draw for batch in first(batches, count) for draw in batch]
    for dataset, length in enumerate(lengths):
        of_it = [draw for draw in draws if draw.dataset == dataset]
        assert len(set(of_it)) == len(of_it)
        assert [draw.epoch for draw in of_it] == [place // length for place in range(len(of_it))]


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 99), st.integers(1, 12))
def test_processes_share_the_large_batch_of_one(world_size, size, seed, count):
    lengths, weights = [7, 20, 3], [0.5, 0.3, 0.2]
    alone = first(batches_of(lengths, weights, size * world_size, seed=seed), count)
    ranks = [
        first(batches_of(lengths, weights, size, seed=seed, rank=rank, world_size=world_size), count)
        for rank in range(world_size)
    ]
    together = [list(itertools.chain.from_iterable(parts)) for parts in zip(*ranks, strict=True)]
    assert together == alone


@settings(deadline=None)
@given(st.integers(0, 30), st.integers(0, 99))
def test_starting_at_a_batch_is_going_on_from_it(start, seed):
    batches = batches_of([7, 20], [0.9, 0.1], 3, seed=seed)
    expected = first(batches, start + 5)[start:]
    batches.start = start
    assert first(batches, 5) == expected


def test_every_batch_is_of_one_dataset_and_weights_are_kept():
    found = first(batches_of([1000, 1000], [0.9, 0.1], 2), 3000)
    assert all(len({draw.dataset for draw in batch}) == 1 for batch in found)
    share = np.mean([batch[0].dataset == 0 for batch in found])
    assert share == pytest.approx(0.9, abs=0.02)


def test_a_weight_of_zero_is_never_drawn_and_weights_need_not_add_up():
    found = first(batches_of([5, 5, 5], [0, 3, 9], 1), 400)
    counts = Counter(batch[0].dataset for batch in found)
    assert set(counts) == {1, 2}
    assert counts[1] == pytest.approx(100, abs=30)


@pytest.mark.parametrize("weights", [[1.0], [-1.0, 2.0], [0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0]])
def test_weights_that_are_no_proportions_are_refused(weights):
    with pytest.raises(DatasetError, match="weights"):
        batches_of([5, 5], weights, 1)


def preparation(**settings: Any) -> Preparation:
    return Preparation(Augmentation(flip=0.5, jitter=0.5, least_crop=0.5, size=(8, 8), **settings), TargetOptions())


def mixture() -> Mixture:
    return Mixture([Numbers("one", list(range(10))), Numbers("two", list(range(50, 55)))], preparation(), seed=3)


def loader(workers: int = 0) -> Loader:
    mixed = mixture()
    return Loader(mixed, MixedBatches(mixed.lengths, [0.7, 0.3], 2, seed=3), workers)


def equal(one: Batch, other: Batch) -> bool:
    tensors = all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))
    return tensors and [meta["record"] for meta in one.meta] == [meta["record"] for meta in other.meta]


def test_a_resumed_run_sees_what_the_unbroken_one_sees():
    unbroken = list(itertools.islice(loader(), 12))
    stopped = loader(workers=2)
    reader = iter(stopped)
    begun = [next(reader) for _ in range(5)]  # the workers have read on
    state = stopped.state_dict()
    resumed = loader()
    resumed.load_state_dict(state)
    rest = list(itertools.islice(resumed, 7))
    assert all(map(equal, begun + rest, unbroken))
    assert resumed.state_dict()["batches"] == 12


def folder_of(root: Path, kind: str, array: np.ndarray, toml: str = "", stems: str = "a") -> Path:
    """A plain folder with black pictures and one array for the truth of all."""
    for stem in stems:
        for folder in ("images", kind):
            (root / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((*array.shape[:2], 3), np.uint8)).save(root / "images" / f"{stem}.png")
        np.save(root / kind / f"{stem}.npy", array)
    (root / "dataset.toml").write_text(toml)
    return root


@pytest.mark.parametrize(("workers", "start_method"), [(2, None), (1, "spawn")])
def test_workers_change_nothing(tmp_path, workers, start_method):
    depth = np.arange(1, 401, dtype=np.float32).reshape(20, 20)
    one = PlainFolder(folder_of(tmp_path / "one", "depth", depth, stems="abcdef"), "depth")
    two = PlainFolder(folder_of(tmp_path / "two", "depth", depth * 2, stems="xyz"), "depth")
    mixed = Mixture([one, two], preparation())
    alone, read = (
        Loader(mixed, MixedBatches(mixed.lengths, [0.5, 0.5], 2, seed=1), number, start_method=start_method)
        for number in (0, workers)
    )
    assert all(map(equal, itertools.islice(read, 6), itertools.islice(alone, 6)))


def test_what_has_changed_since_is_named():
    state = loader().state_dict()
    mixed = mixture()
    other = Loader(mixed, MixedBatches(mixed.lengths, [0.7, 0.3], 4, seed=3))
    with pytest.raises(DatasetError, match="batch_size = 2, now it is 4"):
        other.load_state_dict(state)


def test_a_run_goes_on_with_other_processes_of_the_same_whole_batch():
    mixed = mixture()
    one = Loader(mixed, MixedBatches(mixed.lengths, [1, 1], 4, seed=3))
    two = Loader(mixed, MixedBatches(mixed.lengths, [1, 1], 2, seed=3, rank=1, world_size=2))
    whole = list(itertools.islice(one, 3))
    state = one.state_dict()
    two.load_state_dict({**state, "batches": 2})
    half = next(iter(two))
    assert torch.equal(half.target, whole[2].target[2:])


def test_a_broken_record_gives_way_to_the_next_and_is_named_once(caplog):
    mixed = Mixture([Numbers("one", [0, -1, 2, 3])], Preparation())
    run = Loader(mixed, MixedBatches(mixed.lengths, [1], 2))
    with caplog.at_level(logging.INFO):
        records = [meta["record"] for batch in itertools.islice(run, 10) for meta in batch.meta]
        assert run.tally.close() == "one: 4 records read, 1 skipped"
    assert Counter(records) == {"0": 5, "2": 10, "3": 5}
    assert caplog.text.count("-1 is broken") == 1
    assert "4 records read, 1 skipped" in caplog.text


def test_evaluation_leaves_broken_records_out_and_counts_none_twice():
    mixed = Mixture([Numbers("one", [0, -1, 2, -3, 4]), Numbers("two", [9])], Preparation(), replace_broken=False)
    run = Loader(mixed, InOrder(mixed.lengths, 2))
    assert [meta["record"] for batch in run for meta in batch.meta] == ["0", "2", "4", "9"]
    assert run.tally.summary() == "one: 5 records read, 2 skipped; two: 1 records read, 0 skipped"


@settings(deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=3), st.integers(1, 4), st.integers(1, 3))
def test_processes_evaluate_every_record_once(lengths, size, world_size):
    samplers = [InOrder(lengths, size, rank, world_size) for rank in range(world_size)]
    found = [(draw.dataset, draw.index) for sampler in samplers for batch in sampler for draw in batch]
    assert sorted(found) == [(dataset, index) for dataset, length in enumerate(lengths) for index in range(length)]
    assert [len(sampler) for sampler in samplers] == [len(list(sampler)) for sampler in samplers]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_dataset_mostly_broken_stops_the_run_in_one_sentence(workers):
    mixed = Mixture([Numbers("one", [-1, -2, -3, 3])], Preparation())
    run = Loader(mixed, MixedBatches(mixed.lengths, [1], 4), workers)
    with pytest.raises(DatasetError, match="3 of 4 records are broken") as raised:
        next(iter(run))
    assert "\n" not in str(raised.value)


def test_mostly_broken_is_noticed_even_where_no_half_lies_together():
    tally = Tally(["one"])
    tally.add([(0, number, "x is broken." if number % 2 else "") for number in range(40)])
    tally.close()
    with pytest.raises(DatasetError, match="31 of 60 records are broken"):
        tally.add([(0, number, "x is broken." if number >= 49 else "") for number in range(40, 60)])


def test_pictures_of_several_sizes_in_one_batch_are_refused_in_one_sentence():
    class_a, class_b = Numbers("one", [1, 2]), Numbers("one", [1, 2], size=24)
    mixed = Mixture([class_a, class_b], Preparation())
    assert next(iter(Loader(mixed, InOrder(mixed.lengths, 2)))).image.shape == (2, 3, 16, 16)
    mixed = Mixture([TwoSizes("one", [1, 2])], Preparation())
    with pytest.raises(DatasetError, match="Pictures of 16x16 and 24x24 came into one batch: set `size`"):
        next(iter(Loader(mixed, InOrder(mixed.lengths, 2))))


class TwoSizes(Numbers):
    """Records of two sizes."""

    def read(self, record: int) -> Sample:
        self.size = 16 if record % 2 else 24
        return super().read(record)


def test_datasets_that_do_not_belong_together_are_refused():
    with pytest.raises(DatasetError, match="depth and mask came together"):
        Mixture([Numbers("one", [1]), Numbers("two", [1], task="mask")], Preparation())
    with pytest.raises(DatasetError, match="no dataset"):
        Mixture([], Preparation())


def test_settings_that_do_not_fit_the_truth_are_refused_in_one_sentence(tmp_path):
    folder_of(tmp_path, "depth", np.ones((9, 9), np.float32), '[depth]\nunit = "relative"\n')
    with pytest.raises(ValueError, match="has no metric depth"):
        Mixture([PlainFolder(tmp_path, "depth")], Preparation(targets=TargetOptions(span="metric")))
    mixed = Mixture([PlainFolder(tmp_path, "disparity")], Preparation(targets=TargetOptions()))
    with pytest.raises(DatasetError, match="unknown shift"):
        next(iter(Loader(mixed, MixedBatches(mixed.lengths, [1], 1))))


def test_a_record_looks_different_in_every_epoch_and_run():
    def look(seed: int, epoch: int) -> torch.Tensor:
        batch = collate([Mixture([Numbers("one", [5])], preparation(), seed)[Draw(0, epoch, 0)]])
        assert isinstance(batch, Batch)
        return batch.target

    others = [look(seed, epoch) for seed, epoch in ((1, 1), (2, 0), (2, 1))]
    assert not any(torch.equal(look(1, 0), other) for other in others)
    assert torch.equal(look(1, 0), look(1, 0))


def test_raw_truth_stays_raw_and_prepared_truth_is_the_codecs():
    raw = Mixture([Numbers("one", [5])], Preparation())
    sample = next(iter(Loader(raw, InOrder(raw.lengths))))
    assert sample.target.max() == 16 * 16 + 5
    ready = Mixture([Numbers("one", [5])], Preparation(targets=TargetOptions()))
    sample = next(iter(Loader(ready, InOrder(ready.lengths))))
    assert sample.target.min() == 0
    assert sample.target.max() == 1


def test_normals_of_several_datasets_end_along_one_set_of_axes(tmp_path):
    vector = np.zeros((8, 8, 3), np.float32)
    vector[..., 0], vector[..., 2] = 0.6, 0.8
    for name, axes, sign in (("a", "opengl", 1), ("b", "controlnet_bae", -1)):
        folder_of(tmp_path / name, "normal", vector * np.float32([sign, 1, 1]), f'[normal]\naxes = "{axes}"\n')
    datasets = [PlainFolder(tmp_path / name, "normal") for name in "ab"]
    for wanted in NORMAL_AXES.values():
        mixed = Mixture(datasets, Preparation(targets=TargetOptions(axes=wanted, unit=True)))
        one, other = Loader(mixed, InOrder(mixed.lengths))
        assert torch.equal(one.target, other.target)
