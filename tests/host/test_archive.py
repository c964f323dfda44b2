"""The published archive, unpacked as a node pack, gives all nodes and sees what the repository sees."""

from __future__ import annotations

from zipfile import ZipFile

import archive
import numpy as np
import pytest
from comfyui_server import PACK_NAME
from graph import perceive_file
from PIL import Image
from recording_server import RecordingServer

if not (archive.ROOT / ".git").exists():
    pytest.skip("this copy is no clone: what git tracks is not known", allow_module_level=True)


@pytest.fixture(scope="module")
def published(host, tmp_path_factory):
    """A ComfyUI with the archive unpacked where a registry's client unpacks it."""
    base = tmp_path_factory.mktemp("published")
    pack = base / "comfyui" / "custom_nodes" / PACK_NAME
    with ZipFile(archive.write(base / "pack.zip")) as packed:
        packed.extractall(pack)
    with RecordingServer(host, base / "comfyui", pack=pack) as server:
        yield server


def seen(server) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    Image.fromarray(pixels).save(server.input / "archived.png")
    graph, saved = perceive_file("starter.safetensors", "archived.png", "archived", task="depth", resolution=64)
    return np.load(server.submit(graph).files(saved.name)[0])


def test_the_archive_is_a_whole_pack(comfyui, published):
    pack = published.base / "custom_nodes" / PACK_NAME
    assert not pack.is_symlink()
    assert not (pack / "scenes").exists()
    ours = [{name for name in server.object_info() if name.startswith("Diffusion")} for server in (comfyui, published)]
    assert ours[0] == ours[1]
    assert len(ours[1]) >= 13
    assert np.array_equal(seen(comfyui), seen(published))
