"""Marigold's repositories in diffusers layout give in ComfyUI what diffusers' own pipelines give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from graph import perceive_file
from networks import write_marigold
from PIL import Image

SCHEDULES = {
    "v1-0": {"timestep_spacing": "leading"},
    "v1-1": {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
}
RUNS = [("v1-1", 1, 1), ("v1-1", 4, 1), ("v1-0", 10, 1)]
CASES = [*(("depth", *run) for run in RUNS), *(("normals", *run) for run in (*RUNS, ("v1-1", 4, 3), ("v1-0", 1, 3)))]


@pytest.fixture(scope="module")
def repositories(comfyui):
    """{(kind, release): pipeline}, each saved where LoadModel looks."""
    folder = comfyui.models / "perception"
    return {
        (kind, release): write_marigold(folder / f"marigold-{kind}-{release}", kind, **schedule)
        for kind in ("depth", "normals")
        for release, schedule in SCHEDULES.items()
    }


@pytest.fixture(scope="module")
def picture(comfyui):
    pixels = np.random.default_rng(1).integers(0, 255, (53, 90, 3), np.uint8)
    Image.fromarray(pixels).resize((90, 53)).save(comfyui.input / "marigold.png")
    return pixels


@pytest.mark.parametrize(("kind", "release", "steps", "ensemble"), CASES)
def test_the_nodes_equal_diffusers_own_pipeline(comfyui, repositories, picture, kind, release, steps, ensemble):
    pipeline = repositories[kind, release]
    noise = torch.Generator().manual_seed(7)
    theirs = pipeline(
        torch.from_numpy(picture).movedim(-1, 0)[None].float() / 255,
        num_inference_steps=steps, ensemble_size=ensemble, generator=noise,
    ).prediction[0]  # fmt: skip
    overrides = f"steps={steps} ensemble_size={ensemble} seed=7"
    graph, saved = perceive_file(f"marigold-{kind}-{release}", "marigold.png", f"marigold/{kind}", overrides=overrides)
    ours = np.load(comfyui.submit(graph).files(saved.name)[0])
    check(ours.reshape(theirs.shape), theirs, exact=steps == ensemble == 1)


def check(ours: np.ndarray, theirs: np.ndarray, exact: bool = False) -> None:
    """Several steps let the last digits of two implementations grow."""
    difference = np.abs(ours - theirs)
    assert np.percentile(difference, 99.9) <= 5e-4
    assert difference.max() <= (5e-4 if exact else 3e-3)


def ensemble_inside(repository, picture, steps):
    """Perceive with three members; gives them as they are aligned, and what they are merged into."""
    import torch

    from diffusion_perception.core import pipeline
    from diffusion_perception.nodes.load import LoadModel
    from diffusion_perception.nodes.perceive import Perceive

    members, affine = [], pipeline.MERGES["affine"]

    def watched(maps, edge):
        members.append(maps.clone())
        return affine(maps, edge)

    pipeline.MERGES["affine"] = watched
    perception = LoadModel.execute(repository, "auto", "as trained", f"steps={steps} ensemble_size=3 seed=7").result[0]
    image = torch.from_numpy(picture).float()[None] / 255
    result = Perceive.execute(perception, image, 0, 1).result[0]
    return {"members": members[0], "values": result.values, "uncertainty": result.uncertainty}


@pytest.mark.parametrize(("release", "steps"), [("v1-1", 4), ("v1-0", 1)])
def test_the_members_of_a_depth_ensemble_equal_diffusers_and_so_does_their_merging(
    inside_host, picture, monkeypatch, release, steps
):
    # diffusers aligns by finite differences in single precision: rounding decides where it ends (1e-6 on its members
    # moves its own answer by up to 0.08), so members and merging are compared one after the other
    name = f"marigold-{release}"
    pipeline = write_marigold(inside_host.base / "models" / "perception" / name, "depth", **SCHEDULES[release])
    theirs, merge = [], pipeline.ensemble_depth

    def watched(maps, *arguments, **keywords):
        theirs.append(maps.clone())
        return merge(maps, *arguments, **keywords)

    monkeypatch.setattr(pipeline, "ensemble_depth", watched)
    pipeline(
        torch.from_numpy(picture).movedim(-1, 0)[None].float() / 255, num_inference_steps=steps, ensemble_size=3,
        processing_resolution=0, generator=torch.Generator().manual_seed(7),
    )  # fmt: skip
    ours = inside_host(ensemble_inside, repository=name, picture=picture, steps=steps)
    check(ours["members"], theirs[0].numpy())
    merged, uncertainty = merge(torch.from_numpy(ours["members"]), True, True, True)
    assert np.abs(ours["values"][0, ..., 0] - merged[0, 0].numpy()).max() <= 1e-5
    assert np.abs(ours["uncertainty"][0] - uncertainty[0, 0].numpy()).max() <= 1e-5
