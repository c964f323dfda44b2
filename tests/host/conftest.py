"""A real ComfyUI for the tests of this folder: a server to talk to, and its Python to run functions in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from comfyui_host import Host
from inside_host import InsideHost
from recording_server import RecordingServer

HERE = Path(__file__).parent
# Tiny networks gain nothing from a second thread, and on a busy machine the threads wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("host")


@pytest.fixture(scope="session")
def comfyui(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RecordingServer]:
    """A running ComfyUI with the pack in it, on the CPU; all tests share it."""
    with RecordingServer(host, tmp_path_factory.mktemp("comfyui")) as server:
        yield server


@pytest.fixture
def start_comfyui(host: Host, tmp_path: Path) -> Iterator[Callable[..., RecordingServer]]:
    """Start another ComfyUI for one test, with arguments of its own: `start_comfyui("--fp16-unet", cpu=False)`."""
    with ExitStack() as stack:

        def start(*arguments: str, cpu: bool = True) -> RecordingServer:
            return stack.enter_context(RecordingServer(host, tmp_path / "comfyui", *arguments, cpu=cpu))

        yield start


@pytest.fixture(scope="session")
def inside_host(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InsideHost]:
    """Call a function in the host's Python: see InsideHost.__call__."""
    with closing(InsideHost(host, tmp_path_factory.mktemp("inside_host"))) as inside:
        yield inside
