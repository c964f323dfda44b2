"""A renderer of scenes is one row: the command offers it, and what it makes of planned rooms passes `--verify`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from diffusion_perception.core.srgb import to_srgb
from diffusion_perception.scenes import assets, cameras, shelf
from diffusion_perception.scenes.furniture import CLASSES
from diffusion_perception.scenes.plan import Plan
from diffusion_perception.scenes.renderers import RENDERERS, Renderer
from diffusion_perception.scenes.rooms import Room
from diffusion_perception.scenes.views import View
from diffusion_perception.trainer.cli import main
from diffusion_perception.trainer.data.published import open_dataset

GREY, LIGHT = 0.4, 1.2


def bare(plan: Plan, room: Room, number: int, wanted: list[int]) -> Iterator[tuple[int, View]]:
    """Walls, floor and ceiling of a room that has nothing in it; as bright as it was asked for samples."""
    for k in wanted:
        camera, (width, height) = room.cameras[k], plan.size
        origin, rays = cameras.pixel_rays(camera, width, height)
        with np.errstate(divide="ignore"):
            ways = np.where(rays > 0, (np.array(room.size) - origin) / rays, -origin / rays)
        side = ways.argmin(-1)
        inward = -np.sign(np.take_along_axis(rays, side[..., None], -1)) * np.eye(3)[side]
        depth = ways.min(-1).astype(np.float32)
        albedo, shading = (np.full((height, width, 3), value, np.float32) for value in (GREY, LIGHT / plan.samples))
        yield (
            k,
            View(
                image=np.round(to_srgb(albedo * shading) * 255).astype(np.uint8),
                depth=depth,
                normal=(inward @ (camera.matrix()[:3, :3] * [1, -1, -1])).astype(np.float32),
                albedo=albedo,
                shading=shading,
                segmentation=np.where(side == 1, CLASSES.index("floor"), CLASSES.index("wall")).astype(np.uint8),
                instance=np.zeros((height, width), np.uint16),
                camera=camera,
            ),
        )


@pytest.fixture
def found(monkeypatch, tmp_path) -> Iterator[list[Plan]]:
    """The row, a cache of packages without a model in them, and the plans whose renderer was looked for."""
    monkeypatch.setenv("DIFFUSION_PERCEPTION_CACHE", str(tmp_path / "cache"))
    for package in assets.PACKAGES:
        (assets.cache_folder() / f"{package.name}-{package.version}" / "catalogues").mkdir(parents=True)
    plans: list[Plan] = []
    monkeypatch.setitem(RENDERERS, "bare", Renderer(2, plans.append, bare, "shows empty rooms"))
    shelf.open_shelf.cache_clear()
    yield plans
    shelf.open_shelf.cache_clear()


def scenes(out: Path, *more: object) -> int:
    words = ("scenes", "--renderer", "bare", "--out", out, "--rooms", 1, "--views", 2, "--size", "48x40", *more)
    return main([str(word) for word in words])


def test_the_command_renders_with_a_new_row_and_its_truth_is_verified(found, tmp_path):
    assert scenes(tmp_path / "rooms") == 0
    assert [plan.samples for plan in found] == [2]  # the row's own
    assert main(["scenes", "--verify", "--out", str(tmp_path / "rooms")]) == 0
    sample = open_dataset("folder", "shading", root=str(tmp_path / "rooms" / "train"))[1]
    assert sample.target.shape == (3, 40, 48)
    np.testing.assert_allclose(sample.target, LIGHT / 2, atol=1e-3)


def test_a_view_that_is_there_is_not_rendered_again_and_samples_go_by_the_flag(found, tmp_path):
    assert scenes(tmp_path, "--samples", 3) == 0
    images = sorted((tmp_path / "train" / "images").iterdir())
    images[1].write_bytes(b"kept")
    assert scenes(tmp_path) == 0
    assert images[1].read_bytes() == b"kept"
    assert [plan.samples for plan in found] == [3, 2]


def test_the_command_offers_a_new_row(found, capsys):
    with pytest.raises(SystemExit):
        main(["scenes", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "bare shows empty rooms" in told
    assert "0: 4 by mitsuba, 16 by blender, 2 by bare" in told
