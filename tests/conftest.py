"""What every test may ask for: the golden vectors, and ComfyUI."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import comfyui_host
import pytest
from comfyui_host import Host
from hypothesis import settings

# a machine that others share is slow at times, which is no fault of the code
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

ROOT = Path(__file__).absolute().parents[1]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """On tensors this small a second thread only waits for the first, and on a busy machine for a long time."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def own_precision() -> Iterator[Callable[[], None]]:
    """For runs of another precision: accelerate keeps one for a whole process. Call it between two runs that differ."""
    from accelerate.state import AcceleratorState

    def forget() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)

    forget()
    yield forget
    forget()


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of vectors that the papers' own code gave."""
    chosen = os.environ.get("GOLDEN_DIR")
    folder = Path(chosen) if chosen else ROOT.parent / "shared" / "golden"
    if not folder.is_dir():
        pytest.skip(f"no golden vectors at {folder}: set GOLDEN_DIR to their folder")
    return folder


@pytest.fixture(scope="session")
def host() -> Host:
    """ComfyUI and its Python. Where they cannot be had the tests fail, unless DIFFUSION_PERCEPTION_NO_HOST=1."""
    if os.environ.get("DIFFUSION_PERCEPTION_NO_HOST") == "1":
        pytest.skip("DIFFUSION_PERCEPTION_NO_HOST=1: nothing here was tried in a real ComfyUI")
    return comfyui_host.install()
