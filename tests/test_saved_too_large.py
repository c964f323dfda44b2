"""A weight that is too large for the precision of the file is saved in single precision, and that is said."""

from __future__ import annotations

import logging

import torch
from safetensors.torch import load_file, save_file

from diffusion_perception.trainer.runs.written import narrowed


def test_a_weight_beyond_half_precision_keeps_its_numbers_and_is_named(tmp_path, caplog):
    weights = {"large": torch.tensor([1.0, 7e4, -1e6]), "plain": torch.tensor([0.5, 65504.0])}
    with caplog.at_level(logging.WARNING):
        save_file(narrowed(weights, torch.float16), tmp_path / "x.safetensors")
    found = load_file(tmp_path / "x.safetensors")
    assert found["large"].tolist() == [1.0, 7e4, -1e6]
    assert (found["plain"].dtype, found["plain"].tolist()) == (torch.float16, [0.5, 65504.0])
    (said,) = (record.getMessage() for record in caplog.records)
    assert "1 weights (large ...) have numbers too large for torch.float16" in said
    assert "\n" not in said


def test_what_fits_is_saved_in_the_precision_that_is_asked_for_silently(caplog):
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        with caplog.at_level(logging.WARNING):
            assert narrowed({"x": torch.tensor([65504.0])}, dtype)["x"].dtype == dtype
    assert not caplog.records
