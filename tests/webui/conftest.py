"""webui/ in a stand-in for Forge, and in one for AUTOMATIC1111's with the real `ldm`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ldm_package
import pytest
import tiny

from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.host import Diffusers

HERE = Path(__file__).absolute().parent
BOTH, FORGE, A1111 = HERE / "stand_in", HERE / "stand_in_forge", HERE / "stand_in_a1111"
HOSTS = ("modules", "modules_forge", "backend", "gradio", "fastapi", "ldm", "omegaconf", "scripts")


def is_hosts(name: str) -> bool:
    return name.split(".")[0] in HOSTS or name.startswith("diffusion_perception.webui.")


@pytest.fixture(scope="session")
def own(tmp_path_factory) -> Path:
    """A file of three recipes."""
    small: dict[str, Any] = {"base": "custom", "resolution": 64}
    recipes = [
        Recipe("depth", **small),
        Recipe("normal", **small, axes=("right", "up", "back")),
        Recipe("matte", **small),
    ]
    return tiny.write_own(tmp_path_factory.mktemp("own") / "own.safetensors", recipes)


@pytest.fixture
def models(monkeypatch, tmp_path, own) -> Iterator[None]:
    """That file in models/perception, and a broken one; what is imported of a host is forgotten afterwards."""
    (tmp_path / "perception").mkdir()
    (tmp_path / "perception" / own.name).hardlink_to(own)
    (tmp_path / "perception" / "broken.safetensors").write_bytes(b"no tensors")
    monkeypatch.setenv("STAND_IN_MODELS", str(tmp_path))
    before = {name for name in sys.modules if is_hosts(name)}
    yield
    for name in {name for name in sys.modules if is_hosts(name)} - before:
        del sys.modules[name]


@pytest.fixture
def forge(monkeypatch, models):
    """webui.forge in a stand-in for Forge, with diffusers' networks in the place of its own."""
    for folder in (BOTH, FORGE):
        monkeypatch.syspath_prepend(str(folder))
    import diffusion_perception.webui.forge as forge
    from diffusion_perception.webui.models import Models

    monkeypatch.setattr(forge, "MODELS", Models(forge.LIBRARY, Diffusers, forge.resident))
    return forge


@pytest.fixture
def ldm(monkeypatch, models):
    """webui.ldm in a stand-in for AUTOMATIC1111's WebUI, on the networks that it has."""
    if os.environ.get("DIFFUSION_PERCEPTION_NO_HOST") == "1":
        pytest.skip("DIFFUSION_PERCEPTION_NO_HOST=1: nothing here was tried on the networks of AUTOMATIC1111's WebUI")
    for folder in (BOTH, A1111, ldm_package.install()):
        monkeypatch.syspath_prepend(str(folder))
    import diffusion_perception.webui.ldm as adapters

    return adapters
