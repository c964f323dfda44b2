"""The tables of the papers: one command trains, measures and prints, and does nothing twice."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import tables
from accelerate.state import AcceleratorState

pytestmark = pytest.mark.slow
ROOT = Path(__file__).absolute().parents[1]
FLAGS = ("--steps", "3", "--jobs", "1", "--threads", "1", "--device", "cpu")


@pytest.fixture(scope="module", autouse=True)
def own_precision() -> Iterator[None]:
    """accelerate keeps one precision for a whole process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def run(out: Path) -> str:
    """What the command prints for two of its rows."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        tables.main(
            ["--data", str(ROOT / "tests/data/scenes"), "--out", str(out), *FLAGS, "--only", "data-2", "normal-v"]
        )
    return printed.getvalue()


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("tables")
    return out, run(out)


def line(text: str, title: str) -> list[str]:
    """The cells of a row of a table."""
    return next([cell.strip() for cell in row.split("|")[1:-1]] for row in text.splitlines() if f"| {title} |" in row)


def test_rows_are_trained_and_measured_and_stand_beside_the_published_figures(first):
    _, text = first
    title, abs_rel, delta, *published = line(text, "1/2")
    assert 0 < float(abs_rel) < 2
    assert 0 < float(delta) < 1
    assert published == ["0.060", "0.959", "0.161", "0.754"]
    assert 0 < float(line(text, "LoRA, v, 5 steps")[1]) < 180


def test_rows_that_were_not_run_are_left_open(first):
    assert line(first[1], "1/32")[1:3] == ["–", "–"]


def test_the_same_weights_are_measured_with_every_number_of_steps(first):
    out, _ = first
    measured = json.loads((out / "results" / "normal-v.json").read_text())["measured"]
    assert {"normal", "normal steps=1", "normal steps=50"} <= set(measured)


def test_what_is_finished_is_not_repeated(first):
    out, text = first
    before = {file: file.stat().st_mtime_ns for file in (out / "results").iterdir()}
    again = run(out)
    assert again.count("done before") == 4  # two preparations, two rows
    assert {file: file.stat().st_mtime_ns for file in (out / "results").iterdir()} == before
    assert again.partition("# The papers")[2] == text.partition("# The papers")[2]
