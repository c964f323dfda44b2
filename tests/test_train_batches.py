"""The order of pictures: drawn from the seed and the place in the run, shared out among processes, resumable."""

from __future__ import annotations

import itertools
import logging
import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import runs
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_perception.core.perception_map import Convention
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.data.arrays import BrokenRecord
from diffusion_perception.trainer.data.augment import Augmentation, generator
from diffusion_perception.trainer.data.batches import Batches, Feed, Reading, Tally, in_order, load
from diffusion_perception.trainer.data.published import open_dataset
from diffusion_perception.trainer.data.records import Records, Sample
from diffusion_perception.trainer.data.targets import options_for
from diffusion_perception.trainer.data.truth import DatasetError, Truth

COUNT = 5


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return runs.write_balls(tmp_path_factory.mktemp("balls"), COUNT)


def feed(root, task="depth", weight=1.0, flip=0.5):
    recipe = Recipe(task, base="custom")
    records = open_dataset("folder", task, root=str(root))
    size = (runs.SIZE, runs.SIZE)
    return Feed(records, recipe, options_for(recipe), Augmentation(size, flip=flip), weight, str(root))


def batches(feeds, batch_size=2, count=20, seed=0, process=0, processes=1):
    return Batches(feeds, batch_size, count, seed, process, processes)


def test_an_epoch_shows_every_record_once(root):
    made = batches([feed(root, flip=0.0)], batch_size=1, count=3 * COUNT)
    keys = [made[number].keys[0] for number in range(3 * COUNT)]
    epochs = [keys[i : i + COUNT] for i in range(0, 3 * COUNT, COUNT)]
    assert all(len(set(epoch)) == COUNT for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 19), st.integers(0, 5))
def test_a_batch_depends_on_its_number_and_the_seed_alone(root, number, seed):
    feeds = [feed(root), feed(root, "mask")]
    one, other = (batches(feeds, seed=seed)[number] for _ in range(2))
    assert one.task == other.task
    assert one.keys == other.keys
    assert torch.equal(one.image, other.image)
    assert torch.equal(one.seeds, other.seeds)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_out_what_one_would_have_seen(root, processes):
    feeds = [feed(root), feed(root, "normal")]
    alone = batches(feeds, batch_size=2 * processes)
    shared = [batches(feeds, process=rank, processes=processes) for rank in range(processes)]
    for number in range(6):
        parts = [part[number] for part in shared]
        assert {part.task for part in parts} == {alone[number].task}
        for name in ("image", "target", "valid", "seeds"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(alone[number], name))


def test_every_round_teaches_every_task_once(root):
    made = batches([feed(root, task) for task in ("depth", "normal", "mask")], count=30)
    rounds = [tuple(made.visit(3 * turn + i)[0] for i in range(3)) for turn in range(10)]
    assert all(set(tasks) == {"depth", "normal", "mask"} for tasks in rounds)
    assert len(set(rounds)) > 1


def test_a_task_has_as_many_turns_as_it_is_given(root):
    feeds = [feed(root, "depth"), feed(root, "mask", flip=0.0)]
    made = Batches(feeds, 1, 4 * COUNT, 0, turns={"mask": 3})
    visits = [made.visit(number) for number in range(4 * COUNT)]
    for turn in range(COUNT):
        assert Counter(task for task, _ in visits[4 * turn : 4 * turn + 4]) == {"depth": 1, "mask": 3}
    for task, count in (("depth", COUNT), ("mask", 3 * COUNT)):
        assert [visit for found, visit in visits if found == task] == list(range(count))
    seen = Counter(made[number].keys[0] for number, (task, _) in enumerate(visits) if task == "mask")
    assert list(seen.values()) == [3] * COUNT


def test_turns_are_those_of_the_task_whatever_its_recipe_is_called(root):
    one = feed(root, "mask")
    named = replace(one, recipe=replace(one.recipe, name="people"))
    made = Batches([feed(root, "depth"), named], 1, 8, 0, turns={"mask": 3})
    assert made.kinds == {"depth": "depth", "people": "mask"}
    assert Counter(made.round) == {"depth": 1, "people": 3}


def test_what_another_picture_marks_is_put_into_masks_alone(root):
    plain = {task: feed(root, task, flip=0.0) for task in ("mask", "depth")}
    for task, one in plain.items():
        settings = replace(one.augmentation, copy_paste=1.0)
        pasting = replace(one, augmentation=settings)
        pairs = [(one.sample(i, generator(i))[0], pasting.sample(i, generator(i))[0]) for i in range(COUNT)]
        for before, after in pairs:
            new = (after.target > before.target + 0.5).expand(3, -1, -1)
            assert (after.target >= before.target - 1e-6).all()
            assert task == "mask" or torch.equal(before.image, after.image)
            assert not new.any() or not torch.equal(before.image[new], after.image[new])
        changed = sum(not torch.equal(before.image, after.image) for before, after in pairs)
        assert (changed > 0) == (task == "mask")


def test_datasets_are_drawn_by_weight(root, tmp_path):
    other = runs.write_balls(tmp_path, 3, seed=5)
    made = batches([feed(root, weight=0.9), feed(other, weight=0.1)], count=2000)
    drawn, earlier = made.drawn("depth")
    shares = Counter(drawn.tolist())
    assert shares[0] / 2000 == pytest.approx(0.9, abs=0.03)
    for number in (0, 1):
        assert (earlier[drawn == number] == np.arange(shares[number])).all()


def test_a_stream_begins_where_it_is_told_to(root):
    made = batches([feed(root)], count=8)
    resumed = [batch.keys for batch in load(made, 5, workers=0)]
    assert resumed == [made[number].keys for number in (5, 6, 7)]


def test_a_flipped_picture_is_flipped_with_its_truth(root):
    upright, flipped = (batches([feed(root, "normal", flip=chance)], batch_size=COUNT)[0] for chance in (0.0, 1.0))
    order = [flipped.keys.index(key.replace("upright", "flipped")) for key in upright.keys]
    assert torch.equal(flipped.image[order].flip(-1), upright.image)
    mirrored = flipped.target[order].flip(-1)
    assert torch.allclose(mirrored[:, 0], -upright.target[:, 0], atol=1e-6)
    assert torch.allclose(mirrored[:, 1:], upright.target[:, 1:], atol=1e-6)


def test_batches_travel_to_worker_processes_however_these_are_started(root):
    made = batches([feed(root), feed(root, "normal")])
    travelled = pickle.loads(pickle.dumps(made))
    assert torch.equal(travelled[3].image, made[3].image)


def test_pictures_and_targets_are_the_decoders(root):
    batch = batches([feed(root)])[0]
    for picture in (batch.image, batch.target):
        assert picture.shape == (2, 3, runs.SIZE, runs.SIZE)
        assert picture.min() >= -1
        assert picture.max() <= 1
    assert batch.valid.dtype == torch.bool


class Numbers(Records[int]):
    """Records that know their number; negative ones are broken."""

    def __init__(self, name: str, numbers: list[int]) -> None:
        super().__init__(name, "depth", Convention(high=None, near="low", metric=True), numbers)

    def read(self, record: int) -> Sample:
        if record < 0:
            raise BrokenRecord(f"{self.name}: {record} is broken.")
        values = torch.arange(1.0, 65.0).view(1, 8, 8)
        truth = Truth(values, torch.ones(1, 8, 8, dtype=torch.bool))
        return self.sample(str(record), torch.full((3, 8, 8), record / 100), truth)


def counted(name: str, numbers: list[int]) -> Feed:
    recipe = Recipe("depth", base="custom")
    return Feed(Numbers(name, numbers), recipe, options_for(recipe), Augmentation((8, 8)), origin=name)


def shown(batch) -> list[int]:
    """The numbers of the records in a batch."""
    return [round((value.item() + 1) * 50) for value in batch.image[:, 0, 0, 0]]


def test_a_broken_record_gives_way_to_the_next_and_is_named_once(caplog):
    feeds = [counted("one", [0, -1, 2, 3])]
    tally = Tally(feeds)
    numbers = Counter()
    with caplog.at_level(logging.INFO):
        for batch in load(batches(feeds, count=10), 0, workers=0):
            tally.add(batch.readings)
            numbers.update(shown(batch))
        tally.close()
    assert set(numbers) == {0, 2, 3}
    assert sum(numbers.values()) == 20
    assert caplog.text.count("-1 is broken") == 1
    assert "one: 4 records read, 1 skipped" in caplog.text
    assert tally.skipped == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_a_dataset_mostly_broken_stops_the_run_in_one_sentence(workers):
    stream = load(batches([counted("one", [-1, -2, -3, 3])], batch_size=4), 0, workers)
    with pytest.raises(DatasetError, match="3 of 4 records are broken") as raised:
        list(stream)
    assert "\n" not in str(raised.value)


def test_mostly_broken_is_counted_over_what_was_read():
    tally = Tally([counted("one", list(range(100)))])
    tally.add([Reading(0, number, "x is broken." if number % 2 else "") for number in range(40)])
    tally.close()
    with pytest.raises(DatasetError, match="31 of 60 records are broken"):
        tally.add([Reading(0, number, "x is broken." if number >= 49 else "") for number in range(40, 60)])


def test_few_records_are_judged_at_the_end_of_the_run():
    tally = Tally([counted("one", list(range(100))), counted("two", [1])])
    tally.add([Reading(0, 0, ""), Reading(0, 1, "x is broken."), Reading(0, 2, "y is broken."), Reading(1, 0, "")])
    assert tally.summary() == "one: 3 records read, 2 skipped; two: 1 records read, 0 skipped"
    with pytest.raises(DatasetError, match="2 of 3 records are broken; .*x is broken"):
        tally.close()


def test_measuring_leaves_broken_records_out_and_counts_none_twice(caplog):
    feeds, named = [counted("one", [0, -1, 2, -3, 4]), counted("two", [9])], set()
    for _ in range(2):
        found = [shown(batch) for batch in in_order(feeds, 2, 0, 0, named)]
        assert found == [[0], [2], [4], [9]]
    assert caplog.text.count("-1 is broken") == 1
    assert len(named) == 2


def test_measuring_stops_at_the_share_of_each_dataset_and_sees_the_same_every_time():
    feeds = [counted("one", list(range(9))), counted("two", [50, 51, 52])]
    one, other = (list(in_order(feeds, 3, 4, 7, set())) for _ in range(2))
    assert list(map(shown, one)) == [[0, 1], [50, 51]]
    for batch, again in zip(one, other, strict=True):
        assert torch.equal(batch.seeds, again.seeds)


def test_nothing_to_measure_is_said():
    with pytest.raises(DatasetError, match="None of the pictures of one"):
        list(in_order([counted("one", [-1, -2])], 2, 0, 0, set()))


@pytest.mark.parametrize("workers", [2])
def test_workers_change_nothing(root, workers):
    made = batches([feed(root), feed(root, "normal")], count=6)
    for one, other in itertools.zip_longest(load(made, 0, 0), load(made, 0, workers)):
        assert one.keys == other.keys
        assert torch.equal(one.target, other.target)
        assert one.readings == other.readings
