"""The archives of rendered scenes."""

from __future__ import annotations

import tarfile
from pathlib import Path

import shards

from diffusion_perception.trainer.data.published import open_dataset

SCENES = Path(__file__).parent / "data" / "scenes"


def test_unpacked_shards_are_the_same_datasets(tmp_path):
    written = shards.write(SCENES, tmp_path / "packed", 200_000)
    assert len(written) > 1
    assert all(path.stat().st_size <= 200_000 for path in written)
    for path in written:
        with tarfile.open(path) as archive:
            archive.extractall(tmp_path / "unpacked", filter="data")
    for split in ("train", "val", "test"):
        for task in ("depth", "normal", "mask", "segmentation", "albedo"):
            before, after = (
                open_dataset("folder", task, root=str(root / split)) for root in (SCENES, tmp_path / "unpacked")
            )
            assert len(before) == len(after)
            for one, other in zip((before[i] for i in range(len(before))), (after[i] for i in range(len(after)))):
                assert (one.image - other.image).abs().mean() < 0.02
                limit = 0.02 if task == "albedo" else 0
                assert (one.target - other.target).abs().mean() <= limit
