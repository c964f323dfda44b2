"""The order of pictures: drawn from the seed and the place in the run, shared out among processes, resumable."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
import runs
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.augment import Augmentation
from diffusion_perception.trainer.batches import Batches, Feed, load
from diffusion_perception.trainer.readers import open_dataset
from diffusion_perception.trainer.targets import options_for

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
    rounds = [tuple(made.task(3 * turn + i) for i in range(3)) for turn in range(10)]
    assert all(set(tasks) == {"depth", "normal", "mask"} for tasks in rounds)
    assert len(set(rounds)) > 1


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
