"""Trackers: what the log has is told them too, and one that is not there is said before anything is read."""

from __future__ import annotations

import json

import pytest
import runs
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from diffusion_perception.trainer import trackers
from diffusion_perception.trainer.checks import check_said
from diffusion_perception.trainer.config import Config, ConfigError
from diffusion_perception.trainer.journal import Journal
from diffusion_perception.trainer.loop import fit
from diffusion_perception.trainer.trackers import TRACKERS, Tracker, flat, start_trackers
from diffusion_perception.trainer.train import prepare


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return runs.write_root(tmp_path_factory.mktemp("trackers"))


def test_tensorboard_is_told_what_the_log_has(root, tmp_path):
    fit(prepare(runs.config(root, out=str(tmp_path), steps=4, log_every=2, trackers=("tensorboard",))))
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = {row["step"]: row["loss"]["depth"] for row in rows if "loss" in row}
    assert {event.step: event.value for event in board.Scalars("loss/depth")} == pytest.approx(losses)
    rates = [row["lr"] for row in rows if "loss" in row]
    assert [event.value for event in board.Scalars("lr")] == pytest.approx(rates)


def test_a_run_goes_on_without_tensorboard(root, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    check_said(Config())
    assert start_trackers(runs.config(root, out=str(tmp_path))) == []


@pytest.mark.parametrize("name", [name for name in TRACKERS if name != "tensorboard"])
def test_others_that_are_not_installed_are_named(name, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=f"trackers: {name} is not installed: run `pip install {name}`"):
        check_said(Config(trackers=(name,)))


def test_an_unknown_tracker_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"tensorbord.*tensorboard"):
        check_said(Config(trackers=("tensorbord",)))


def test_one_that_cannot_be_reached_is_said_in_a_sentence(tmp_path, monkeypatch):
    class Deaf:
        def start(self):
            raise RuntimeError("no account\nlong story")

    monkeypatch.setitem(TRACKERS, "tensorboard", Tracker(lambda out: Deaf()))
    with pytest.raises(ConfigError, match=r"^trackers: tensorboard could not be started \(no account\): mend it, or"):
        start_trackers(Config(out=str(tmp_path)))


def test_a_config_is_flat_for_those_who_show_it():
    table = dict(flat({"steps": 3, "size": (8, 16), "base": {"path": "a b", "widths": ()}}))
    assert table == {"steps": 3, "size": "[8, 16]", "base.path": '"a b"', "base.widths": "[]"}


def test_a_tracker_is_closed_with_the_log(tmp_path):
    class Heard(list):
        def log(self, numbers, step):
            self.append((numbers, step))

        def finish(self):
            self.append("closed")

    heard = Heard()
    journal = Journal(tmp_path, True, [heard])
    journal.validation(3, {"score": 0.5})
    journal.close()
    assert heard == [({"validation/score": 0.5}, 3), "closed"]
