"""A library finds what lies in a host's folders, and keeps what is loaded only while it is used."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import tiny

from diffusion_perception.core.checkpoints.library import Library, Shared, contents, stamps
from diffusion_perception.core.checkpoints.tensors import CheckpointError, network
from diffusion_perception.core.recipe import Recipe


@pytest.fixture
def library(tmp_path):
    """Two folders, the second of which holds a file of the same name."""
    for folder in ("first", "second"):
        (tmp_path / folder / "inner").mkdir(parents=True)
    tiny.write_ldm(tmp_path / "first" / "inner" / "one.safetensors")
    tiny.write_ldm(tmp_path / "second" / "two.safetensors")
    tiny.write_ldm(tmp_path / "second" / "inner" / "one.safetensors")
    return Library(lambda: [tmp_path / "first", tmp_path / "second", tmp_path / "missing"], "models/perception")


def test_choices_are_told_once_and_the_first_folder_comes_first(library, tmp_path):
    assert library.choices() == ["inner/one.safetensors", "two.safetensors"]
    assert library.resolve("inner/one.safetensors") == tmp_path / "first" / "inner" / "one.safetensors"
    assert library.resolve("inner\\one.safetensors") == tmp_path / "first" / "inner" / "one.safetensors"
    assert library.resolve("two.safetensors") == tmp_path / "second" / "two.safetensors"


def test_an_empty_library_says_where_to_put_one(tmp_path):
    empty = Library(lambda: [tmp_path], "models/perception")
    assert empty.choices() == [empty.nothing] == ["(none: put one into models/perception)"]
    with pytest.raises(CheckpointError, match="models/perception holds nothing to choose: put an adapter there"):
        empty.resolve(empty.nothing, adapters=True)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "C:\\x", "inner/../../x", "..\\x"])
def test_a_name_that_leads_out_is_refused(library, name):
    with pytest.raises(CheckpointError, match="leads out of models/perception"):
        library.resolve(name)


@pytest.mark.parametrize("name", ["gone.safetensors", "", None, "."])
def test_a_name_of_nothing_is_told_with_what_there_is(library, name):
    with pytest.raises(CheckpointError, match=r"put it there, or choose a checkpoint that is \(inner/one.safetensors"):
        library.resolve(name)


def test_a_widget_begins_with_a_checkpoint_that_says_what_it_perceives(library, tmp_path):
    assert library.runnable() == "inner/one.safetensors"  # none of them does
    trained = tiny.write_own(tmp_path / "second" / "zoo.safetensors", [Recipe("depth", base="custom")])
    assert library.runnable() == "zoo.safetensors"
    trained.write_bytes(trained.read_bytes()[:100])
    assert library.runnable() == "inner/one.safetensors"
    nothing = Library(lambda: [tmp_path / "missing"], "models/perception")
    assert nothing.runnable() == nothing.nothing


def test_a_changed_file_is_another(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"one")
    before = stamps([file]), contents(tmp_path)
    os.utime(file, ns=(1, 1))
    assert stamps([file]) != before[0]
    assert contents(tmp_path) != before[1]
    again = contents(tmp_path)
    (tmp_path / "further").write_bytes(b"")
    assert contents(tmp_path) != again


class Loaded:
    """A network."""

    def __init__(self, weights, width=0):
        self.path, self.width = weights.path, width


def test_networks_are_shared_while_somebody_holds_them(tmp_path):
    tiny.write_ldm(tmp_path / "x.safetensors")
    weights = network((tmp_path / "x.safetensors",), lambda names: {name: name for name in names})
    shared = Shared()
    one = shared(Loaded, weights, 1)
    assert shared(Loaded, weights, 1) is one
    assert len(shared) == 1
    del one
    gc.collect()
    assert len(shared) == 0


def test_a_file_that_changed_is_loaded_anew(tmp_path):
    file = tmp_path / "x.safetensors"
    tiny.write_ldm(file)
    shared, names = Shared(), lambda names: {name: name for name in names}
    one = shared(Loaded, network((file,), names))
    os.utime(file, ns=(1, 1))
    assert shared(Loaded, network((file,), names)) is not one
    assert isinstance(one.path, Path)
