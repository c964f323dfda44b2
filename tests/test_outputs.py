"""No command writes over what it reads, and what it writes is there whole, with the rights that the umask leaves."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from diffusion_perception.core.checkpoints.checkpoint import open_checkpoint
from diffusion_perception.core.checkpoints.own_file import write_own
from diffusion_perception.core.checkpoints.tensors import save_tensors
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.core.whole_file import UnwritableError, whole_file, write_whole
from diffusion_perception.trainer import keypoint_ap
from diffusion_perception.trainer.cli import main
from diffusion_perception.trainer.latents import save_latent as save_latent
from diffusion_perception.trainer.outputs import folds_case
from diffusion_perception.trainer.state import write_whole as write_state


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny.write_genpercept(folder / "hub", ["unet_depth_v2"])
    tiny.write_own(folder / "mine.safetensors", [Recipe("depth", base="custom", resolution=48)])
    return folder


@pytest.fixture
def place(models, tmp_path, monkeypatch) -> Path:
    """A folder to work in, with a picture and two models in it."""
    shutil.copytree(models / "hub", tmp_path / "hub")
    shutil.copy(models / "mine.safetensors", tmp_path)
    tiny.save_picture(tmp_path / "photo.png", 37, 50)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def held(folder: Path) -> dict[str, str]:
    """{file: digest of what is in it}"""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def refused(capsys, *words: str) -> str:
    assert main(list(words)) == 2
    *bars, line = capsys.readouterr().err.strip().splitlines()
    assert not any("Traceback" in bar for bar in bars)
    return line


def hard_link(place: Path) -> None:
    (place / "out").mkdir()
    os.link("photo.png", "out/photo.png")


def soft_link(place: Path) -> None:
    (place / "out").mkdir()
    (place / "out" / "photo.png").symlink_to(place / "photo.png")


def linked_folder(place: Path) -> None:
    (place / "out").symlink_to(place)


def picture_called_npy(place: Path) -> None:
    (place / "depth.npy").write_bytes((place / "photo.png").read_bytes())


def context_called_so(place: Path) -> None:
    np.save(place / "photo.npy", tiny.context(50).numpy())
    (place / "photo.png").rename(place / "photo.bmp.png")
    tiny.save_picture(place / "photo.jpg", 20, 30)


def masks_in_out(place: Path) -> None:
    (place / "out").mkdir()
    tiny.save_picture(place / "out" / "photo.png", 37, 50)


def boxes_in_out(place: Path) -> None:
    (place / "photo.json").write_text("{}")


def context_of_the_model(place: Path) -> None:
    np.save(place / "hub" / "empty_text_embed.npy", tiny.context().numpy())
    tiny.save_picture(place / "empty_text_embed.jpg", 20, 30)


OVERWRITTEN = {
    "the picture itself": (lambda place: None, ("--model", "mine.safetensors", "--out", ".", "photo.png")),
    "by another way": (lambda place: None, ("--model", "mine.safetensors", "--out", "hub/..", "./photo.png")),
    "a hard link": (hard_link, ("--model", "mine.safetensors", "--out", "out", "photo.png")),
    "a link": (soft_link, ("--model", "mine.safetensors", "--out", "out", "photo.png")),
    "a linked folder": (linked_folder, ("--model", "mine.safetensors", "--out", "out", "photo.png")),
    "a picture called .npy": (picture_called_npy, ("--model", "mine.safetensors", "--out", ".", "depth.npy")),
    "one of many": (
        picture_called_npy,
        ("--model", "mine.safetensors", "--out", ".", "hub/../depth.npy", "mine.safetensors"),
    ),
    "a context": (
        context_called_so,
        ("--model", "mine.safetensors", "--out", ".", "--context", "photo.npy", "photo.jpg"),
    ),
    "a negative context": (
        context_called_so,
        ("--model", "mine.safetensors", "--out", ".", "--negative-context", "photo.npy", "photo.jpg"),
    ),
    "a mask": (masks_in_out, ("--model", "mine.safetensors", "--out", "out", "--mask", "out", "photo.png")),
    "the boxes": (boxes_in_out, ("--model", "hub", "--out", ".", "--boxes", "photo.json", "photo.png")),
    "a context in the model": (context_of_the_model, ("--model", "hub", "--out", "hub", "empty_text_embed.jpg")),
}


@pytest.mark.parametrize(("make", "words"), OVERWRITTEN.values(), ids=OVERWRITTEN)
def test_predict_writes_over_nothing_that_it_reads(place, capsys, make, words):
    make(place)
    before = held(place)
    assert "would be written over" in refused(capsys, "predict", *words)
    assert held(place) == before


def test_what_was_predicted_before_is_written_anew(place):
    words = ["predict", "--model", "mine.safetensors", "--out", "hub", "photo.png"]
    assert main(words) == 0
    (place / "hub" / "photo.npy").write_bytes(b"old")
    assert main(words) == 0
    assert np.load(place / "hub" / "photo.npy").shape == (37, 50)
    assert not list(place.rglob(".*"))


def test_an_out_that_is_a_file_is_told_before_anything_is_loaded(place, capsys):
    assert "--out photo.png is a file" in refused(
        capsys, "predict", "--model", "gone", "--out", "photo.png", "photo.png"
    )


EXPORTS = {
    "the model": ("mine.safetensors", ("--model", "mine.safetensors")),
    "by another way": ("hub/../mine.safetensors", ("--model", "mine.safetensors")),
    "weights in the model's folder": ("hub/unet_depth_v2/" + tiny.WEIGHTS, ("--model", "hub")),
    "its VAE": ("hub/vae/" + tiny.WEIGHTS, ("--model", "hub")),
    "its context": ("hub/empty_text_embed.safetensors", ("--model", "hub")),
    "a context": ("context.safetensors", ("--model", "mine.safetensors", "--context", "context.safetensors")),
    "a context of many": ("context.safetensors", ("--model", "mine.safetensors", "--context", "context.safetensors:a")),
    "a link": ("link.safetensors", ("--model", "mine.safetensors")),
    "a hard link": ("hard.safetensors", ("--model", "mine.safetensors")),
    "the base": ("hub/unet_depth_v2/" + tiny.WEIGHTS, ("--adapter", "gone", "--base", "hub")),
    "a decoder": ("light.safetensors", ("--model", "mine.safetensors", "--decoder", "light.safetensors")),
}


@pytest.mark.parametrize(("out", "words"), EXPORTS.values(), ids=EXPORTS)
def test_export_writes_over_nothing_that_it_reads(place, capsys, out, words):
    save_file({"a": tiny.context()}, place / "context.safetensors")
    save_file({"a": torch.ones(1)}, place / "light.safetensors")
    (place / "link.safetensors").symlink_to("mine.safetensors")
    os.link("mine.safetensors", "hard.safetensors")
    before = held(place)
    assert "is the file that is read" in refused(capsys, "export", *words, "--out", out)
    assert held(place) == before


def test_extract_writes_over_neither_the_model_nor_its_base(place, capsys):
    for out in ("mine.safetensors", "hub/unet_depth_v2/" + tiny.WEIGHTS):
        words = ("--model", "mine.safetensors", "--base", "hub", "--out", out)
        assert "is the file that is read" in refused(capsys, "extract", *words)


def test_an_export_that_is_a_folder_is_told(place, capsys):
    (place / "x.safetensors").mkdir()
    words = ("--model", "mine.safetensors", "--out", "x.safetensors")
    assert "is a folder" in refused(capsys, "export", *words)


@pytest.mark.parametrize("name", ["results", "truth", "scores"])
def test_keypoint_ap_writes_over_nothing_that_it_reads(place, capsys, name):
    (place / f"{name}.json").write_text("[]")
    for words in (("--boxes", f"{name}.json", "--annotations", "x.json"), ("--annotations", f"{name}.json")):
        assert keypoint_ap.command(["--model", "mine.safetensors", "--root", ".", *words, "--out", "."]) == 2
        assert "would be written over" in capsys.readouterr().err
    assert (place / f"{name}.json").read_text() == "[]"


def test_names_that_differ_in_case_are_two_only_where_the_system_says_so(tmp_path):
    (tmp_path / "probe").mkdir()
    one_file = (tmp_path / "PROBE").exists()
    assert folds_case(tmp_path / "probe" / "not" / "made") == one_file


# Whole, or not at all


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def array() -> torch.Tensor:
    return torch.rand(64, 1024)


WRITERS = {
    "bytes": lambda path: write_whole(path, bytes(1 << 18)),
    "tensors": lambda path: save_tensors(path, {"a": array()}, {}),
    "state": lambda path: write_state(path, {"a": array()}),
    "latents": lambda path: save_latent(path, array()),
    "checkpoint": lambda path: tiny.write_own(path, [Recipe("depth", base="custom")]),
    "light": lambda path: write_own(path, [], light={"decoder": {"x": {"a": array()}}}),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_is_told_with_the_file_and_leaves_what_was_there(tmp_path, write):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"old")
    with full_disk(1 << 16), pytest.raises(UnwritableError, match=r"^Could not write .*x\.safetensors \(") as told:
        write(path)
    assert "\n" not in str(told.value)
    assert held(tmp_path) == {"x.safetensors": hashlib.sha256(b"old").hexdigest()}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_files_have_the_rights_that_the_umask_leaves(tmp_path, write, mask):
    before = os.umask(mask)
    try:
        write(tmp_path / "x.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == 0o666 & ~mask
    assert len(held(tmp_path)) == 1


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("predict", "--model", "mine.safetensors", "--out", "out", "photo.png"), "photo.npy"),
        (("export", "--model", "mine.safetensors", "--out", "out/x.safetensors"), "x.safetensors"),
    ],
)
def test_a_command_on_a_full_disk_says_which_file_and_leaves_none(place, capsys, words, name):
    with full_disk(4096):
        told = refused(capsys, *words)
    assert f"Could not write out/{name} (" in told
    assert held(place / "out") == {}


def test_a_file_of_the_longest_name_is_written(tmp_path):
    path = tmp_path / ("x" * 251 + ".npy")
    write_whole(path, b"1")
    assert path.read_bytes() == b"1"


def test_an_interrupted_file_leaves_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def stopped() -> None:
        with whole_file(path) as partial:
            partial.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert held(tmp_path) == {"x": hashlib.sha256(b"old").hexdigest()}


def test_a_link_in_the_outputs_place_is_replaced_and_what_it_leads_to_is_kept(tmp_path):
    (tmp_path / "precious").write_bytes(b"old")
    (tmp_path / "x").symlink_to(tmp_path / "precious")
    write_whole(tmp_path / "x", b"new")
    assert (tmp_path / "precious").read_bytes() == b"old"
    assert (tmp_path / "x").read_bytes() == b"new"


def test_what_is_exported_reads_as_before(place):
    assert main(["export", "--model", "mine.safetensors", "--dtype", "fp32", "--out", "new/x.safetensors"]) == 0
    one, other = load_file(place / "mine.safetensors"), load_file(place / "new" / "x.safetensors")
    assert all(torch.equal(other[name], tensor) for name, tensor in one.items())
    assert open_checkpoint(place / "new" / "x.safetensors").recipe.task == "depth"
    assert json.dumps(sorted(one)) == json.dumps(sorted(other))
