"""The curve of rank against error: each of its points is what `extract` alone gives, and it ends at the fine-tune."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from script import load_script
from test_export import fine_tune, source, write_base, write_tuned

from diffusion_perception.core.checkpoints.adapters import LowRank
from diffusion_perception.core.checkpoints.extract import extract, extract_ranks


def test_several_ranks_at_once_are_what_each_is_alone():
    networks = source(fine_tune(tiny.unet()).state_dict()), source(tiny.unet().state_dict())
    ranks = (2, 8, 48, None)
    together = list(extract_ranks(*networks, ranks, torch.float32))
    for rank in ranks:
        alone = list(extract(*networks, rank, torch.float32))
        assert [layer[rank].layer for layer in together] == [each.layer for each in alone]
        for layer, (_, part, energy) in zip(together, alone):
            found = layer[rank]
            assert type(found.part) is type(part)
            assert found.energy == pytest.approx(energy, abs=1e-5)
            for name, value in vars(part).items():
                if isinstance(part, LowRank) and name in ("down", "up"):
                    continue  # the same up to signs
                other = vars(found.part)[name]
                assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
            if isinstance(part, LowRank):
                assert (found.part.difference() - part.difference()).abs().max() < 1e-5


def test_the_curve_falls_to_the_fine_tune(tmp_path, capsys):
    base, tuned = write_base(tmp_path / "base"), write_tuned(tmp_path / "tuned")
    image = tiny.save_picture(tmp_path / "photo.png", 32, 48)
    out = tmp_path / "curve.json"
    words = ["--base", base, "--model", tuned, "--resolution", 0, "--ranks", 4, 32, "--dtype", "fp32", "--json", out]
    rows = load_script("benchmarks/extract_rank.py").main([str(word) for word in (*words, image)])
    assert [row.rank for row in rows] == ["base", "4", "32", "full"]
    assert [row.mean_error for row in rows] == sorted((row.mean_error for row in rows), reverse=True)
    assert [row.megabytes for row in rows] == sorted(row.megabytes for row in rows)
    assert [row.mean_energy for row in rows] == sorted(row.mean_energy for row in rows)
    assert rows[-1].relative_error < 1e-4
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(rows)
    assert [row["rank"] for row in json.loads(out.read_text())] == [row.rank for row in rows]
