"""What only an accelerator can show: the same answers as on the CPU, and a step of training in half precision."""

from __future__ import annotations

import json
import math

import pytest
import runs
import tiny
import torch

from diffusion_perception.core.checkpoints.checkpoint import open_checkpoint
from diffusion_perception.core.pipeline import predict
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.host import load_perceiver
from diffusion_perception.trainer.train import run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


@pytest.fixture(autouse=True)
def exact():
    """Without TensorFloat-32, whose ten bits would hide mistakes; products of matrices do not use it by themselves."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


@pytest.mark.parametrize(
    "recipe",
    [Recipe("depth"), Recipe("normal", paradigm="deterministic", steps=3), Recipe("mask", ensemble_size=2)],
    ids=lambda recipe: recipe.id,
)
def test_a_gpu_answers_what_the_cpu_answers(tmp_path, recipe):
    file = tiny.write_own(tmp_path / "file.safetensors", [recipe])
    image = tiny.picture(72, 56)
    with torch.inference_mode():
        here, there = (
            predict(load_perceiver(open_checkpoint(file), device=device), image.to(device)).values.cpu()
            for device in ("cpu", "cuda")
        )
    assert torch.allclose(here, there, atol=1e-4)


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
@pytest.mark.parametrize("unet", ["full", "lora"])
def test_a_run_on_a_gpu_learns_and_writes_its_file(tmp_path, own_precision, precision, unet):
    root = runs.write_root(tmp_path / "balls")
    config = runs.config(
        root, out=str(tmp_path / "run"), device="cuda", precision=precision, network={"unet": unet}, log_every=1
    )
    run(config)
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(math.isfinite(value) for row in rows for value in row.get("loss", {}).values())
    assert (tmp_path / "run" / "last.safetensors").is_file()
