"""Depth is measured as the published evaluation of its dataset does it: numpy's least squares, then the set's range."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import runs
import torch

from diffusion_perception.core.pipeline import predict
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.config import Config, Source
from diffusion_perception.trainer.data.augment import Augmentation
from diffusion_perception.trainer.data.feeds import feed
from diffusion_perception.trainer.data.folder import PlainFolder
from diffusion_perception.trainer.data.hypersim import MAPS
from diffusion_perception.trainer.data.published import SOURCES, DepthList, JsonLists, VirtualKitti2
from diffusion_perception.trainer.data.truth import Depth, protocol_of
from diffusion_perception.trainer.scoring import score
from diffusion_perception.trainer.train import prepare

H, W = 60, 80
SIZE = {"kitti": (375, 1242), "nyu_v2": (480, 640)}
PUBLISHED = {
    "nyu_v2": ((1e-3, 10.0), None, 0),
    "kitti": ((1e-5, 80.0), None, 0),
    "scannet": ((1e-3, 10.0), None, 0),
    "diode": ((0.6, 350.0), None, 640),
    "eth3d": ((1e-5, np.inf), 1024, 756),
}
"""Metres, the edge of the fit, processing resolution: the configs of Marigold's and GenPercept's evaluation."""


def write_list(root: Path, source: str, depth: np.ndarray) -> DepthList:
    """One picture and its depth in metres, stored as the source stores it."""
    row = SOURCES[source]
    picture = np.random.default_rng(0).integers(0, 256, (*depth.shape, 3)).astype(np.uint8)
    assert cv2.imwrite(str(root / "a.png"), picture)
    if row.raw != (0, 0):
        depth.astype("<f4").tofile(root / "depth")
        files = "depth"
    elif row.mask_column > 0:
        np.save(root / "depth.npy", depth.astype(np.float32))
        np.save(root / "mask.npy", np.ones(depth.shape, np.float32))
        files = "depth.npy mask.npy"
    else:
        levels = (depth / row.depth.factor(np.zeros(1, np.uint16))).round().clip(0, 65535)
        assert cv2.imwrite(str(root / "depth.png"), levels.astype(np.uint16))
        files = "depth.png"
    (root / "list.txt").write_text(f"a.png {files}\n")
    return DepthList(str(root), "depth", str(root / "list.txt"), source)


def numpys_protocol(prediction, depth, valid, near, far, edge):
    """AbsRel and RMSE log by the published evaluation: columns thinned out, lstsq, the set's range, 1e-6."""
    factor = min(edge / max(depth.shape), 1) if edge else 1
    columns = (np.arange(int(depth.shape[1] * factor)) / factor).astype(int)
    used = valid[:, columns]
    design = np.stack([prediction[:, columns][used], np.ones(used.sum())], 1)
    (scale, shift), *_ = np.linalg.lstsq(design, depth[:, columns][used], rcond=None)
    aligned = np.clip(np.clip(prediction * scale + shift, near, far), 1e-6, None)[valid]
    truth = depth[valid]
    return np.mean(np.abs(aligned - truth) / truth), np.sqrt(np.mean((np.log(aligned) - np.log(truth)) ** 2))


@pytest.mark.parametrize("source", PUBLISHED)
def test_depth_of_every_published_list_is_measured_by_its_protocol(source, tmp_path, monkeypatch):
    (near, far), edge, _ = PUBLISHED[source]
    if source == "eth3d":
        edge = 40  # of its pictures of 6048 columns 1024 take part, half of these
        monkeypatch.setitem(SOURCES, source, replace(SOURCES[source], raw=(H, W), max_edge=edge))
    draw = np.random.default_rng(1)
    depth = draw.uniform(0.05, 1, SIZE.get(source, (H, W))) * min(far, 80)
    records = write_list(tmp_path, source, depth)
    source_feed = feed(Config(), Recipe("depth"), Source(str(tmp_path)), records, Augmentation())
    sample = records[0]
    truth, valid = sample.target[0].double().numpy(), sample.valid[0].numpy()
    prediction = truth * 0.01 + min(far, 80) * 0.002 * draw.normal(size=truth.shape)
    values = torch.from_numpy(prediction)[None, None]
    found = score(("abs-rel", "rmse-log"), [(values, sample, source_feed)])
    expected = numpys_protocol(prediction, truth, valid, near, far, edge)
    assert list(found.values()) == pytest.approx(expected, rel=1e-5)
    assert found["rmse-log"] < numpys_protocol(prediction, truth, valid, 1e-6, np.inf, edge)[1]


@pytest.mark.parametrize("source", PUBLISHED)
def test_every_evaluated_set_has_its_published_protocol(source):
    found = SOURCES[source].protocol
    assert (found.depth_range, found.max_edge, found.resolution) == PUBLISHED[source]


def test_a_list_may_be_measured_at_another_resolution(tmp_path):
    usual = write_list(tmp_path, "scannet", np.full((H, W), 2.0)).protocol
    other = DepthList(str(tmp_path), "depth", str(tmp_path / "list.txt"), "scannet", resolution=-1).protocol
    assert other == replace(usual, resolution=-1)


def test_what_reads_depth_knows_its_range(tmp_path):
    depth = np.full((375, 1242), 20.0)
    write_list(tmp_path, "vkitti", depth)
    (tmp_path / "rows.jsonl").write_text('{"image": "a.png", "depth_conditioning_image": "depth.png"}\n')
    rows = JsonLists(str(tmp_path), "depth", str(tmp_path / "rows.jsonl"), "kitti")
    assert (rows.protocol.depth_range, rows.protocol.resolution) == ((1e-5, 80.0), 0)
    for kind in ("rgb", "depth"):
        folder = tmp_path / f"vkitti/Scene01/clone/frames/{kind}/Camera_0"
        folder.mkdir(parents=True)
        name = "rgb_00000.jpg" if kind == "rgb" else "depth_00000.png"
        assert cv2.imwrite(str(folder / name), np.full((375, 1242), 200, np.uint16 if kind == "depth" else np.uint8))
    assert VirtualKitti2(str(tmp_path / "vkitti")).protocol.depth_range == (1e-5, 80.0)
    assert protocol_of(MAPS["depth"].settings).depth_range == (1e-5, 65.0)
    runs.write_balls(tmp_path / "balls", 1)
    assert PlainFolder(tmp_path / "balls", "depth").protocol == protocol_of(Depth())
    with (tmp_path / "balls/dataset.toml").open("a") as file:
        file.write("[depth]\nnear = 0.5\nfar = 30.0\n")
    assert PlainFolder(tmp_path / "balls", "depth").protocol.depth_range == (0.5, 30.0)
    assert PlainFolder(tmp_path / "balls", "mask").protocol.depth_range == (0.0, np.inf)


def test_a_run_validates_a_set_at_its_processing_resolution(tmp_path, monkeypatch):
    root = runs.write_root(tmp_path)
    (tmp_path / "list").mkdir()
    draw = np.random.default_rng(2)
    for resolution in (-1, 96, 0):
        monkeypatch.setitem(SOURCES, "scannet", replace(SOURCES["scannet"], resolution=resolution))
        write_list(tmp_path / "list", "scannet", draw.uniform(1, 5, (64, 72)))
        held_out = {
            "root": str(tmp_path / "list"),
            "reader": "depth-list",
            "settings": {"list": str(tmp_path / "list/list.txt"), "source": "scannet"},
        }
        run = prepare(runs.config(root, validation=[held_out]))
        (held,) = run.evaluator.feeds
        sample = held.records[0]
        perceiver = run.evaluator.model.perceiver("depth")
        with torch.no_grad():
            values = predict(perceiver, sample.image[None], resolution=resolution).values.movedim(-1, 1)
        expected = score(["abs-rel"], [(values, sample, held)])
        assert run.evaluator.metrics("depth", [held], 0)["abs-rel"] == pytest.approx(expected["abs-rel"], rel=1e-5)
