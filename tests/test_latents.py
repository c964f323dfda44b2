"""Kept latents: what was encoded once is not encoded again, and what would encode otherwise is not mixed up with it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import runs
import torch
from torch import nn

from diffusion_perception.trainer.config import Config, ConfigError, Objective
from diffusion_perception.trainer.data.augment import Augmentation
from diffusion_perception.trainer.data.feeds import check_cache
from diffusion_perception.trainer.latents import Latents

PICTURES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Encoder:
    """Notes how many pictures it is asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, pictures):
        self.asked.append(len(pictures))
        return pictures[:, :, ::8, ::8]


def test_only_pictures_that_are_not_known_are_encoded_and_each_comes_back_in_its_place(tmp_path):
    known, encode = Latents(tmp_path, "about"), Encoder()
    known.encode(PICTURES[:1], ["a"], encode)
    mixed = known.encode(PICTURES[[1, 0, 2]], ["b", "a", "c"], encode)
    assert encode.asked == [1, 2]
    assert torch.equal(mixed, PICTURES[[1, 0, 2], :, ::8, ::8])
    assert torch.equal(known.encode(PICTURES, ["a", "b", "c"], encode), PICTURES[:, :, ::8, ::8])
    assert encode.asked == [1, 2]


def test_what_is_kept_is_found_by_another_run_and_not_by_one_of_other_settings(tmp_path):
    encode = Encoder()
    for about in (("fp32", 1), ("fp32", 1), ("fp32", 2)):
        Latents(tmp_path, *about).encode(PICTURES, ["a", "b", "c"], encode)
    assert encode.asked == [3, 3]


def test_nothing_half_written_is_left(tmp_path):
    Latents(tmp_path, 0).encode(PICTURES, ["a", "b", "c"], Encoder())
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert [file.suffix for file in files] == [".npy"] * 3


def kept_in(tmp_path, vae=None, precision="no", recipe=None, **settings):
    config = replace(Config(out=str(tmp_path), cache_latents=True), **settings)
    vae = vae or nn.Linear(2, 2)
    known = Latents.of_run(config, precision, [recipe or runs.recipe("depth")], vae)
    assert known is not None
    return known.folder


def test_runs_share_latents_unless_pictures_targets_precision_or_the_vae_differ(tmp_path):
    vae = nn.Linear(2, 2)
    first = kept_in(tmp_path, vae)
    same = {"steps": 7, "recipe": runs.recipe("depth", paradigm="deterministic", steps=5, timestep=9, licence="CC0")}
    assert kept_in(tmp_path, vae, **same) == first
    others = [
        kept_in(tmp_path, nn.Linear(2, 2)),
        kept_in(tmp_path, vae, precision="bf16"),
        kept_in(tmp_path, vae, size=(64, 64)),
        kept_in(tmp_path, vae, target={"low": 0.1}),
        kept_in(tmp_path, vae, recipe=runs.recipe("depth", target_scale=0.0)),
    ]
    assert len({first, *others}) == 1 + len(others)


def test_a_run_that_keeps_none_has_none(tmp_path):
    assert Latents.of_run(Config(out=str(tmp_path)), "no", [runs.recipe("depth")], nn.Linear(1, 1)) is None


@pytest.mark.parametrize(
    ("augmentation", "config"),
    [
        (Augmentation((32, 32), flip=0.5, least_crop=0.5), Config()),
        (Augmentation((32, 32)), Config(objective=Objective(sample_latents=True))),
    ],
)
def test_pictures_that_differ_each_time_are_refused(augmentation, config):
    with pytest.raises(ConfigError, match=r"leave only flip in \[augment\]"):
        check_cache(augmentation, config)
    check_cache(Augmentation((32, 32), flip=0.5), Config())
