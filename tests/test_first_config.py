"""The config that is written to begin with: it reads as its preset, with its comments and without."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from diffusion_perception.trainer.cli import main
from diffusion_perception.trainer.config import read
from diffusion_perception.trainer.first_config import first_config


def opened(tmp_path, text):
    path = tmp_path / "first.toml"
    path.write_text(text)
    return read(path)


NAMES = (
    "genpercept-depth",
    "genpercept-scratch",
    "genpercept-v1-keypoints",
    "e2e-ft-depth",
    "dmp-depth-captions",
    "vae",
)


@pytest.mark.parametrize("name", ["", "light-decoder", "dmp-depth-captions", *NAMES])
def test_it_reads_as_the_preset_and_says_the_same_when_every_comment_is_taken_away(tmp_path, name):
    text = first_config("first.toml", name)
    found = opened(tmp_path, text)
    bare = read(None, {"preset": name} if name else {})
    assert found.data
    if name:
        given = ("out", "data", "validation_share", "base", "tasks")
        assert replace(found, **{key: getattr(bare, key) for key in given}) == bare
    body = text.split("\n\n", 1)[1]
    spoken = opened(tmp_path, re.sub(r"^# (?=[a-z_]+ = )", "", body, flags=re.MULTILINE))
    free = {key: getattr(found, key) for key in ("validate_every", "save_every")}
    assert replace(spoken, **free) == found


def test_datasets_stand_with_their_weights_and_sizes(tmp_path):
    found = opened(tmp_path, first_config("first.toml", "genpercept-depth"))
    assert [(row.reader, row.weight, row.size) for row in found.data] == [
        ("hypersim", 0.9, ()),
        ("vkitti", 0.1, (352, 1216)),
    ]


def test_every_line_of_a_known_key_is_explained():
    lines = [line for line in first_config("first.toml", "").splitlines() if re.match(r"(# )?[a-z_]+ = ", line)]
    unexplained = [line for line in lines if "  # " not in line]
    assert unexplained == ["flip = 0.5"]


def test_it_is_written_once_and_never_over_another_file(tmp_path, capsys):
    path = tmp_path / "my/first.toml"
    assert main(["train", "--preset", "dmp-normal", "--write-config", str(path)]) == 0
    assert "fill in what is in CAPITALS" in capsys.readouterr().out
    assert read(path).preset == "dmp-normal"
    assert main(["train", "--write-config", str(path)]) == 2
    assert "first.toml is there already" in capsys.readouterr().err


def test_what_it_cannot_take_is_refused(tmp_path, capsys):
    for words in (["--steps", "3"], ["--data", "rooms"], ["--set", "steps=3"], ["other.toml"]):
        assert main(["train", *words, "--write-config", str(tmp_path / "a.toml")]) == 2
        assert "--write-config takes --preset and nothing else" in capsys.readouterr().err


def test_an_unknown_preset_is_refused(tmp_path, capsys):
    assert main(["train", "--preset", "dmp-norml", "--write-config", str(tmp_path / "a.toml")]) == 2
    assert "did you mean 'dmp-normal'?" in capsys.readouterr().err
    assert not (tmp_path / "a.toml").exists()
