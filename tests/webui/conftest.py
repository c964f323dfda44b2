"""webui/ in a stand-in for Forge."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import tiny

from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.host import Diffusers

STAND_IN = Path(__file__).absolute().parent / "stand_in"
HOSTS = ("modules", "modules_forge", "backend", "gradio")


def is_hosts(name: str) -> bool:
    return name.split(".")[0] in HOSTS or name.startswith("diffusion_perception.webui.")


@pytest.fixture
def forge(monkeypatch, tmp_path):
    """webui.forge in a stand-in for Forge, with one file of three recipes in models/perception."""
    recipes = [
        Recipe(task="depth", base="custom"),
        Recipe(task="normal", base="custom", axes=("right", "up", "back")),
        Recipe(task="matte", base="custom"),
    ]
    tiny.write_own(tmp_path / "perception" / "own.safetensors", recipes)
    (tmp_path / "perception" / "broken.safetensors").write_bytes(b"no tensors")
    monkeypatch.syspath_prepend(str(STAND_IN))
    monkeypatch.setenv("STAND_IN_MODELS", str(tmp_path))
    before = {name for name in sys.modules if is_hosts(name)}
    import diffusion_perception.webui.forge as forge
    from diffusion_perception.webui.models import Models

    monkeypatch.setattr(forge, "MODELS", Models(forge.LIBRARY, Diffusers))
    yield forge
    for name in {name for name in sys.modules if is_hosts(name)} - before:
        del sys.modules[name]
