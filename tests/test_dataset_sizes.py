"""Datasets of one run may each have a size and a crop of their own: batches are of one, and cameras follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import runs
import torch
from test_train_keypoints import write_animals

from diffusion_perception.trainer.checks import check_said
from diffusion_perception.trainer.config import Config, ConfigError, build
from diffusion_perception.trainer.data.batches import Batches, Feed
from diffusion_perception.trainer.data.feeds import open_feeds
from diffusion_perception.trainer.train import run


def opened(root: Path, *sources: dict, **settings) -> tuple[list[Feed], list[Feed]]:
    """The feeds of a run on balls; its datasets as in TOML, roots left out."""
    data = [{"root": str(root / "train"), **source} for source in sources]
    return open_feeds(runs.config(root, data=data, **settings), "custom")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return runs.write_root(tmp_path_factory.mktemp("balls"))


# What a config says


def test_a_dataset_has_the_runs_size_unless_it_says_its_own(root):
    feeds, _ = opened(root, {}, {"size": [32, 64]}, size=[40, 48])
    made = Batches(feeds, 2, 40, 0)
    shapes = {made.feed_of(number)[0]: made[number].image.shape[-2:] for number in range(12)}
    assert shapes == {0: (40, 48), 1: (32, 64)}


def test_what_is_measured_on_has_the_size_and_the_crop_of_its_dataset(root):
    validation = [{"root": str(root / "val"), "size": [40, 32], "crop": [20, 16]}]
    _, (held_out,) = opened(root, {}, validation=validation)
    sample, _ = held_out.sample(0, np.random.default_rng(0))
    assert sample.image.shape[-2:] == (40, 32)
    assert held_out.records[0].image.shape[-2:] == (20, 16)


@pytest.mark.parametrize(("at", "rows"), [("middle", slice(8, 24)), ("bottom", slice(16, 32))])
def test_a_crop_keeps_the_middle_columns_of_its_rows(root, at, rows):
    (whole, cut), _ = opened(root, {}, {"crop": [16, 20], "crop_at": at})
    before, after = whole.records[0], cut.records[0]
    assert torch.equal(after.image, before.image[:, rows, 6:26])
    assert torch.equal(after.target, before.target[:, rows, 6:26])


def test_a_run_learns_from_datasets_of_two_sizes(root, tmp_path):
    data = [{"root": str(root / "train"), "size": size} for size in ([32, 64], [40, 32])]
    made = runs.config(root, out=str(tmp_path / "run"), data=data, steps=3, accumulation=4, cache_latents=True)
    run(made)
    assert (tmp_path / "run/last.safetensors").is_file()


def test_kept_latents_of_another_size_are_others(root):
    (one, other, third), _ = opened(root, {}, {"size": [32, 64]}, {"crop": [16, 16]})
    keys = {feed.sample(0, np.random.default_rng(0))[1].key for feed in (one, other, third)}
    assert len(keys) == 3


def begin(root: Path, source: dict) -> None:
    """As far as a run comes before it reads its base."""
    made = runs.config(root, data=[{"root": str(root / "train"), **source}])
    check_said(made)
    open_feeds(made, "custom")


REFUSED = {
    "no multiple of 8": ({"size": [30, 64]}, "size = [30, 64] of DATA: height and width must be multiples of 8"),
    "one number": ({"size": [64]}, "size = [64] of DATA: height and width"),
    "a crop of one number": ({"crop": [64]}, "crop = [64] of DATA: give height and width in pixels."),
    "an empty crop": ({"crop": [0, 8]}, "crop = [0, 8] of DATA: give height and width in pixels."),
    "a place without a crop": ({"crop_at": "bottom"}, "crop_at of DATA has no effect here: it needs crop"),
    "a place that there is not": ({"crop": [8, 8], "crop_at": "top"}, "data.0.crop_at = 'top' is not one of"),
    "a crop that is too large": (
        {"crop": [16, 33]},
        "crop = [16, 33] of DATA is larger than its pictures: 000 is 32 high and 32 wide.",
    ),
}


@pytest.mark.parametrize(("source", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused_in_one_sentence(root, source, sentence):
    with pytest.raises(ConfigError) as told:
        begin(root, source)
    assert sentence.replace("DATA", str(root / "train")) in str(told.value)


def test_people_are_not_cropped_once_more(tmp_path):
    cats = write_animals(tmp_path / "cats", ["nose", "left_ear", "right_ear"], [[1, 2]])
    table = {
        "tasks": ["keypoints"],
        "size": [64, 48],
        "network": {"head": "vitpose_classic"},
        "objective": {"loss": "pixel"},
        "data": [{"root": str(cats), "crop": [16, 16]}],
    }
    with pytest.raises(ConfigError, match="has people, who are cut out around their boxes: leave its crop out"):
        open_feeds(build(Config, table, ""), "custom")
