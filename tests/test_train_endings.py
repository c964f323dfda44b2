"""When a run ends early, which of its states are kept, and what it holds out by itself."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import runs
import torch
from safetensors.torch import load_file

from diffusion_perception.core.checkpoints.tensors import read_metadata
from diffusion_perception.trainer.checks import check_said
from diffusion_perception.trainer.config import ConfigError
from diffusion_perception.trainer.data.feeds import open_feeds
from diffusion_perception.trainer.data.parts import split_off
from diffusion_perception.trainer.data.published import open_dataset
from diffusion_perception.trainer.data.truth import DatasetError
from diffusion_perception.trainer.loop import fit
from diffusion_perception.trainer.train import prepare


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return runs.write_root(tmp_path_factory.mktemp("balls"), held_out=2)


def scored(run, scores):
    """The run, whose held-out pictures are measured as these."""
    listed = iter(scores)
    run.evaluator.measure = lambda done, main: {"score": next(listed)}
    return run


def patient(root: Path, out: Path, **settings):
    validation = [{"root": str(root / "val")}]
    common = {"steps": 20, "validate_every": 2, "validation": validation, "save_every": 100, "samples": 0}
    return prepare(runs.config(root, out=str(out), **{**common, **settings}))


def step_of(file: Path) -> int:
    return json.loads(read_metadata(file)["diffusion_perception.training"])["step"]


# Early stopping


def test_a_run_ends_once_so_many_validations_in_a_row_are_no_better(root, tmp_path, capsys):
    run = scored(patient(root, tmp_path, patience=2), [5.0, 3.0, 4.0, 2.0, 2.0, 2.5, 1.0])
    fit(run)
    said = capsys.readouterr().err
    assert "The run ends at step 12 of 20: 2 validations in a row were no better than that of step 8" in said
    assert (step_of(tmp_path / "best.safetensors"), step_of(tmp_path / "last.safetensors")) == (8, 12)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 12


def test_an_ended_run_stays_ended_until_it_is_given_more_patience(root, tmp_path, capsys):
    fit(scored(patient(root, tmp_path, patience=1), [1.0, 2.0]))
    fit(scored(patient(root, tmp_path, patience=1), []))
    assert capsys.readouterr().err.count("The run ends at step 4 of 20") == 2
    fit(scored(patient(root, tmp_path, patience=2), [0.5] * 8))
    assert step_of(tmp_path / "best.safetensors") == 6


def test_without_patience_every_step_is_taken(root, tmp_path):
    fit(scored(patient(root, tmp_path, steps=6), [1.0, 2.0, 3.0]))
    assert step_of(tmp_path / "last.safetensors") == 6


def test_patience_that_has_nothing_to_go_by_is_refused(root):
    for settings in ({"validate_every": 500}, {"validation": [{"root": str(root / "val")}], "validate_every": 0}):
        with pytest.raises(ConfigError, match="patience = 3 has no effect here"):
            check_said(runs.config(root, patience=3, **settings))


# States


def test_the_last_states_are_kept_and_a_run_goes_back_to_one(root, tmp_path):
    common = {"steps": 6, "save_every": 1, "keep_states": 3, "optimiser": {"lr": 1e-3, "schedule": "constant"}}
    fit(prepare(runs.config(root, out=str(tmp_path), **common)))
    assert [path.name for path in sorted((tmp_path / "states").iterdir())] == ["0000004.pt", "0000005.pt", "0000006.pt"]
    before = load_file(tmp_path / "last.safetensors")
    (tmp_path / "states/0000004.pt").replace(tmp_path / "state.pt")
    again = prepare(runs.config(root, out=str(tmp_path), **common))
    assert again.first_step == 4
    fit(again)
    after = load_file(tmp_path / "last.safetensors")
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_no_state_is_kept_beside_unless_asked_for(root, tmp_path):
    fit(prepare(runs.config(root, out=str(tmp_path), save_every=1)))
    assert not (tmp_path / "states").exists()


# What is held out


def names(records) -> list[str]:
    return [records.made_of(record).name for record in records.records]


def test_a_share_is_held_out_of_a_folder_and_nothing_is_on_both_sides(tmp_path):
    root = runs.write_balls(tmp_path, 40)
    records = open_dataset("folder", "depth", root=str(root))
    learnt, held_out = split_off(records, 0.25)
    assert sorted(names(learnt) + names(held_out)) == sorted(names(records))
    assert not set(names(learnt)) & set(names(held_out))
    assert 4 <= len(held_out) <= 16


def test_another_picture_moves_none_to_the_other_side(tmp_path):
    root = runs.write_balls(tmp_path, 30)
    before = set(names(split_off(open_dataset("folder", "depth", root=str(root)), 0.3)[1]))
    runs.write_balls(tmp_path, 31)
    after = set(names(split_off(open_dataset("folder", "depth", root=str(root)), 0.3)[1]))
    assert after - before <= {"images/030.png"}
    assert before <= after


def test_pictures_of_one_folder_are_on_one_side(tmp_path):
    for scene, kind in itertools.product("abcdefgh", ("images", "depth")):
        (tmp_path / kind / scene).mkdir(parents=True)
    runs.write_balls(tmp_path / "flat", 4)
    for scene, index in itertools.product("abcdefgh", range(4)):
        for kind, ending in (("images", "png"), ("depth", "npy")):
            source = tmp_path / "flat" / kind / f"{index:03}.{ending}"
            (tmp_path / kind / scene / source.name).write_bytes(source.read_bytes())
    records = open_dataset("folder", "depth", root=str(tmp_path))
    sides = [{Path(name).parts[1] for name in names(part)} for part in split_off(records, 0.3)]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == set("abcdefgh")


def test_a_small_share_holds_out_one_and_a_large_one_leaves_one(tmp_path):
    records = open_dataset("folder", "depth", root=str(runs.write_balls(tmp_path, 3)))
    assert [len(part) for part in split_off(records, 1e-6)] == [2, 1]
    assert [len(part) for part in split_off(records, 0.9999)] == [1, 2]


def test_a_single_picture_cannot_be_parted(tmp_path):
    with pytest.raises(DatasetError, match="balls has one picture and cannot be parted by validation_share"):
        split_off(open_dataset("folder", "depth", root=str(runs.write_balls(tmp_path, 1))), 0.5)


def test_a_run_measures_on_what_it_holds_out_the_same_for_every_task(root, tmp_path):
    config = runs.config(root, tasks=["depth", "mask"], validation_share=0.4)
    feeds, held_out = open_feeds(config, "custom")
    assert len({tuple(names(feed.records)) for feed in held_out}) == 1
    assert not set(names(feeds[0].records)) & set(names(held_out[1].records))
    run = prepare(runs.config(root, out=str(tmp_path), validation_share=0.4))
    fit(run)
    assert (tmp_path / "best.safetensors").is_file()


def test_a_share_beside_datasets_that_are_named_for_it_is_refused(root):
    with pytest.raises(ConfigError, match=r"validation_share = 0.2 has no effect here: it needs no \[\[validation\]\]"):
        check_said(runs.config(root, validation_share=0.2, validation=[{"root": str(root / "val")}]))
