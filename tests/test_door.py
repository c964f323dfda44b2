"""The Python door: one call opens a perceiver, another gives the map, the same as `predict` writes."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import doors
import numpy as np
import pytest
import torch
from PIL import Image

import diffusion_perception
from diffusion_perception.core.errors import UserError
from diffusion_perception.trainer.host import open_perceiver
from diffusion_perception.trainer.perceiver import as_images

STARTER = Path(diffusion_perception.__file__).parent / "weights" / "starter.safetensors"
OLD = Path(__file__).parent / "contracts" / "files"
PIXELS = np.random.default_rng(5).integers(0, 256, (40, 56, 3), np.uint8)


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("door") / "picture.png"
    Image.fromarray(PIXELS).save(file)
    return file


@pytest.fixture(scope="module")
def perceiver():
    return diffusion_perception.open_perceiver(STARTER, task="depth", device="cpu")


def test_what_it_gives_is_what_predict_writes(perceiver, picture, tmp_path):
    written = doors.predicted(["--model", str(STARTER), "--task", "depth"], picture, tmp_path)
    found = perceiver(picture)
    assert found.task == "depth"
    assert found.values.shape == (1, 40, 56, 1)
    assert np.array_equal(found.values[0, ..., 0].numpy(), written)


FORMS = {
    "a path": str,
    "a PIL image": Image.open,
    "an array": lambda file: PIXELS,
    "a batch of arrays": lambda file: PIXELS[None],
    "16 bits": lambda file: PIXELS.astype(np.uint16) * 257,
    "floats": lambda file: PIXELS / 255,
    "a tensor": lambda file: torch.from_numpy(PIXELS).movedim(-1, 0) / 255,
    "a batch of tensors": lambda file: torch.from_numpy(PIXELS).movedim(-1, 0)[None] / 255,
}


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_may_come_in_any_form(picture, form):
    found = as_images(FORMS[form](picture))
    assert found.dtype == torch.float32
    assert np.allclose(found[0].movedim(0, -1).numpy(), PIXELS.astype(np.float64) / 255, rtol=0, atol=1e-7)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F"])
def test_a_picture_that_pillow_holds_is_seen_as_its_file_is(tmp_path, mode):
    held = Image.fromarray((PIXELS[..., 0] / 255).astype(np.float32)) if mode == "F" else Image.fromarray(PIXELS)
    if mode == "I;16":
        held = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 200)
    elif mode != "F":
        held = held.convert(mode)
    held.save(tmp_path / "picture.tif")
    seen = as_images(tmp_path / "picture.tif")
    assert torch.equal(as_images(Image.open(tmp_path / "picture.tif")), seen)
    assert seen.std() > 0.1


NOT_PICTURES = {
    "numbers": (3, "int is no picture"),
    "a grey array": (PIXELS[..., 0], r"ndarray of shape \(40, 56\) and type uint8 is no picture: give a path"),
    "channels first": (PIXELS.transpose(2, 0, 1), r"ndarray of shape \(3, 40, 56\)"),
    "signed numbers": (PIXELS.astype(np.int64), "type int64 is no picture"),
    "a tensor of bytes": (
        torch.from_numpy(PIXELS).movedim(-1, 0),
        r"Tensor of shape \(3, 40, 56\) and type torch.uint8",
    ),
    "floats of 255": (PIXELS.astype(np.float32), "outside"),
}


@pytest.mark.parametrize("name", NOT_PICTURES)
def test_what_is_no_picture_is_told(perceiver, name):
    given, sentence = NOT_PICTURES[name]
    with pytest.raises(UserError, match=sentence):
        perceiver(given)


def test_a_file_that_is_missing_is_told(perceiver, tmp_path):
    with pytest.raises((UserError, OSError), match="missing"):
        perceiver(tmp_path / "missing.png")


def test_an_adapter_may_stand_first_or_be_named(tmp_path, monkeypatch):
    with tarfile.open(next(OLD.glob("*.tar.xz"))) as tar:
        tar.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    given = {"base": "checkpoint.safetensors", "task": "depth", "device": "cpu"}
    one = open_perceiver("extracted.safetensors", **given)(PIXELS, resolution=128).values
    two = open_perceiver(adapter="extracted.safetensors", **given)(PIXELS, resolution=128).values
    three = open_perceiver("checkpoint.safetensors", adapter="extracted.safetensors", task="depth", device="cpu")
    assert torch.equal(one, two)
    assert torch.equal(one, three(PIXELS, resolution=128).values)
    with pytest.raises(UserError, match="not all three"):
        open_perceiver("x", base="y", adapter="z")
    with pytest.raises(UserError, match="Name a model"):
        open_perceiver()


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, diffusion_perception; print('torch' in sys.modules, 'diffusers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
