"""Writes files/<commit>.tar.xz: files as this commit writes them, and what they answer. No test runs it.

Run it from the repository's root on a clean commit. An archive that lies there is never written again: a commit that
writes what older ones do not adds an archive of its own.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn

HERE = Path(__file__).absolute().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE.parent)]

import runs  # noqa: E402
import tiny  # noqa: E402
from doors import command, predicted  # noqa: E402

from diffusion_perception.core.checkpoints.own_file import write_own  # noqa: E402
from diffusion_perception.core.heads.table import untrained_head  # noqa: E402
from diffusion_perception.core.recipe import Recipe  # noqa: E402

WIDTHS = (32, 32, 64, 64)
CLASSES = "202060 wall, F0C030 ball, 30A050 floor"
JOINTS = ("nose", "left_eye", "right_eye")
CHECKPOINT = ["--model", "checkpoint.safetensors"]
ADAPTED = ["--resolution", "64", "--base", "checkpoint.safetensors", "--adapter"]
GUIDED = ["--set", "guidance_scale=2", "--context", "texts.safetensors:one"]
ANSWERS = {
    "depth": [*CHECKPOINT, "--task", "depth"],
    "four steps": [*CHECKPOINT, "--task", "disparity"],
    "normal": [*CHECKPOINT, "--task", "tilted"],
    "segmentation by a head": [*CHECKPOINT, "--task", "segmentation"],
    "keypoints by a head": [*CHECKPOINT, "--task", "keypoints"],
    "resolution of its own": [*CHECKPOINT, "--task", "depth", "--resolution", "0"],
    "dpt head": ["--model", "head.safetensors", "--resolution", "64"],
    "adapter": [*ADAPTED, "run/last.safetensors", "--task", "depth"],
    "adapter, second task": [*ADAPTED, "run/last.safetensors", "--task", "normal"],
    "guided adapter": [*ADAPTED, "guided.safetensors"],
    "extracted adapter": [*ADAPTED, "extracted.safetensors"],
    "light decoder": [*CHECKPOINT, "--task", "depth", "--decoder", "decoder.safetensors"],
    "light decoder of its own": ["--model", "lightened.safetensors", "--task", "depth", "--decoder", "light"],
    "light encoder": [*CHECKPOINT, "--task", "depth", "--encoder", "encoder.safetensors"],
}
"""Name -> how `predict` is told of it."""
TRAIN = {
    "size": [32, 32],
    "steps": 2,
    "batch_size": 2,
    "workers": 0,
    "estimate": False,
    "device": "cpu",
    "validate_every": 0,
    "samples": 0,
    "log_every": 1,
    "save_precision": "fp16",
    "licence": "CC0-1.0",
}
"""Of every run."""
LORA = ["--tasks", "depth,normal", "--unet", "lora", "--rank", "1", "--lora-layers", "to_q", "--ema", "0.9"]
HEAD = ["--tasks", "depth", "--unet", "frozen", "--head", "dpt_head_identity", "--head-width", "8", "--loss", "pixel"]
LIGHT = ["--tasks", "depth", "--size", "64,64", "--light-width", "8", "--light-blocks", "1,1,1"]


def main() -> None:
    """Write the archive of this commit."""
    commit = subprocess.check_output(["git", "rev-parse", "--short=7", "HEAD"], text=True, cwd=ROOT).strip()
    archive = HERE / "files" / f"{commit}.tar.xz"
    if archive.exists():
        raise SystemExit(f"{archive.name} is there: it stays as it is.")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_files()
        write_runs()
        write_answers()
        with tarfile.open(archive, "w:xz", preset=9) as tar:
            for path in sorted(Path().iterdir()):
                tar.add(path)
    size = archive.stat().st_size
    sys.stdout.write(f"{archive.name}: {size / 1000:.0f} kB\n")


# Networks


def filled(network: nn.Module, seed: int) -> nn.Module:
    """With weights that repeat a short row of random numbers, which packs well. Its length is prime: no row of a matrix
    is another's."""
    row = torch.randn(4099, generator=torch.Generator().manual_seed(seed)).half().float()
    for weight in (weight for weight in network.parameters() if weight.ndim > 1):
        scale = 2.0 ** round(math.log2(weight.shape[1:].numel() ** -0.5))
        weight.data = row[torch.arange(weight.numel()) % len(row)].view(weight.shape) * scale
    return network.eval().requires_grad_(False)


def unet() -> UNet2DConditionModel:
    network = UNet2DConditionModel(
        block_out_channels=WIDTHS, layers_per_block=1, attention_head_dim=[1, 1, 2, 2], cross_attention_dim=64,
        use_linear_projection=True,
    )  # fmt: skip
    return filled(network, 1)


def vae() -> AutoencoderKL:
    network = AutoencoderKL(
        block_out_channels=(32, 32, 32, 32), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4,
    )  # fmt: skip
    return filled(network, 2)


def half(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.half() for name, tensor in network.state_dict().items()}


def write_files() -> None:
    """What lies there before anything is trained: a checkpoint of several tasks, pictures, texts, graphs."""
    several = {"base": "custom", "resolution": 64}
    recipes = [
        Recipe("depth", **several, licence="CC0-1.0", data="noise"),
        Recipe("disparity", **several, paradigm="deterministic", steps=4, beta_start=0.00085, beta_end=0.012),
        Recipe("normal", "tilted", **several, axes=("right", "up", "back")),
        Recipe("segmentation", **several, head="upernet", codec="class-scores", palette=CLASSES),
        Recipe("keypoints", **several, head="vitpose_simple", keypoints=",".join(JOINTS), limbs="nose:left_eye"),
    ]
    heads = {
        "upernet": untrained_head("upernet", WIDTHS, 8, 3),
        "vitpose_simple": untrained_head("vitpose_simple", WIDTHS, 32, len(JOINTS)),
    }
    eyes, network = vae(), unet()
    write_own(
        Path("checkpoint.safetensors"),
        recipes,
        unet=(tiny.unet_architecture(network), half(network)),
        vae=(tiny.vae_architecture(eyes), half(eyes)),
        heads={name: half(filled(head, 3)) for name, head in heads.items()},
        contexts={recipe.id: tiny.context(seed).half() for seed, recipe in enumerate(recipes)},
    )
    save_file({"one": tiny.context(20), "other": tiny.context(21)}, "texts.safetensors")
    tiny.save_picture(Path("picture.png"), 40, 32)
    runs.write_balls(Path("balls"), 4)
    for kind in ("disparity", "mask", "matte", "segmentation", "albedo", "shading"):
        shutil.rmtree(Path("balls") / kind)
    shutil.copytree(ROOT / "workflows", "workflows", ignore=shutil.ignore_patterns("*.jpg"))


# What commands write


def write_runs() -> None:
    """Runs of two steps; the first of them also goes on to the fourth, elsewhere."""
    Path("settings.toml").write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in TRAIN.items()))
    begun = ["train", "settings.toml", "--data", "balls", "--base", "checkpoint.safetensors", "--lr", "1e-2"]
    command(*begun, "--out", "run", *LORA)
    shutil.copytree("run", "further")
    command("train", "further/config.toml", "--out", "further", "--steps", "4")
    shutil.copy("further/last.safetensors", "trained.safetensors")
    command(*begun, "--out", "head", *HEAD)
    command(*begun, "--out", "decoder", "--learn", "decoder", *LIGHT)
    command(*begun, "--out", "encoder", "--learn", "encoder", *LIGHT)
    for name in ("head", "decoder", "encoder"):
        shutil.copy(f"{name}/last.safetensors", f"{name}.safetensors")
    export = ["export", "--licence", "CC0-1.0", "--out"]
    adapter = ["--base", "checkpoint.safetensors", "--adapter", "run/last.safetensors"]
    command(*export, "guided.safetensors", *adapter, "--task", "depth", *GUIDED,
            "--negative-context", "texts.safetensors:other")  # fmt: skip
    command(*export, "lightened.safetensors", *CHECKPOINT, "--task", "depth", "--decoder", "decoder.safetensors")
    command(*export, "merged.safetensors", *adapter, "--task", "depth", "--merge")
    command("extract", "--model", "merged.safetensors", "--base", "checkpoint.safetensors", "--rank", "1",
            "--out", "extracted.safetensors")  # fmt: skip
    Path("merged.safetensors").unlink()
    for name in ("further", "head", "decoder", "encoder"):
        shutil.rmtree(name)


def write_answers() -> None:
    """What every file answers, and how it was asked."""
    found = {name: predicted(words, Path("picture.png"), Path("out")) for name, words in clean(ANSWERS)}
    shutil.rmtree("out")
    np.savez_compressed("answers.npz", **found)
    Path("answers.json").write_text(json.dumps(ANSWERS, indent=1))


def clean(answers: dict[str, list[str]]):
    """One by one, each into an empty folder."""
    for row in answers.items():
        shutil.rmtree("out", ignore_errors=True)
        yield row


if __name__ == "__main__":
    main()
