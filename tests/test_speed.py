"""The benchmark of a prediction: what it makes of its runs, and how it draws them."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from script import load_script

STAGES = {"encode": 1.0, "UNet": 2.0, "decode": 3.0}


def run(seconds: float, value: float = 0.5) -> dict[str, Any]:
    """A run that took so many seconds for its depth and half of that to load."""
    part = {"s": seconds, "wall": 2 * seconds, "MiB": 100 * seconds, "stages": STAGES}
    loading = {"s": seconds / 2, "wall": seconds, "MiB": 50.0, "stages": {}}
    return {"full": part, "load": loading, "values": np.full((2, 2), value, np.float32)}


@pytest.fixture
def speed():
    return load_script("benchmarks/speed.py")


@pytest.fixture
def found():
    return {"diffusers": [run(10), run(20), run(40)], "predict": [run(8, 0.75), run(18), run(20)]}


def test_ratios_are_taken_round_by_round_and_their_median_counts(speed, found):
    rows = {(row["by"], row["case"]): row for row in speed.rows(found)}
    assert rows["predict", "full"]["ratio"] == 0.8  # of 0.8, 0.9 and 0.5; the medians' own ratio would be 0.9
    assert rows["predict", "full"]["s"] == 18
    assert rows["predict", "full"]["memory"] == 0.8
    assert rows["predict", "full"]["stages"] == STAGES
    assert rows["diffusers", "load"]["ratio"] == 1
    assert ("predict", "latent") not in rows


def test_a_case_is_measured_beside_the_same_by_diffusers_where_it_has_that(speed, found):
    for runs, seconds in ((found["diffusers"], 16), (found["predict"], 12)):
        for each in runs:
            each["batch 2"] = run(seconds)["full"]
    for each in found["predict"]:
        each["latent"] = run(5)["full"]
    ratios = {row["case"]: row["ratio"] for row in speed.rows(found) if row["by"] == "predict"}
    assert ratios["batch 2"] == 0.75
    assert ratios["latent"] == 0.25  # of 5/10, 5/20 and 5/40


def test_tasks_that_share_an_encode_are_measured_beside_three_predictions(speed):
    rows = [{"by": "predict", "case": "full", "s": 10.0}, {"by": "predict", "case": "3 tasks", "s": 24.0}]
    assert speed.shared(rows, "3 tasks", "full") == {"predict": 0.8}
    assert speed.shared(rows, "3 tasks, light", "light decoder") == {}


def test_depths_are_compared_with_those_by_diffusers(speed, found):
    assert speed.apart(found) == {"predict": 0.25}


def test_the_picture_has_a_bar_for_every_prediction_and_the_table_a_row(speed, found):
    rows = speed.rows(found)
    drawn = ElementTree.fromstring(speed.picture(rows, {"size": 512, "gpu": "", "processor": "a <chip>", "threads": 1}))
    assert len([each for each in drawn if each.get("rx")]) == 2
    assert len(speed.table(rows).splitlines()) == 2 + 4
