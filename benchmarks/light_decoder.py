"""What light halves of the VAE save, in arithmetic and time, and what they cost, in the tasks' own metrics.

    python benchmarks/light_decoder.py                       # FLOPs of SD2.1's shape at 768x768; nothing is computed
    python benchmarks/light_decoder.py --time --size 512     # the same, and the time of each part on this machine
    python benchmarks/light_decoder.py --model CHECKPOINT --data TRAIN --held-out TEST --out FOLDER
        # trains a light decoder for each task of a checkpoint and one encoder, measures full beside light on held-out
        # pictures, and writes FOLDER/light.safetensors: the checkpoint with its light halves in it

Weights of the first two are random: neither FLOPs nor time depend on them. FLOPs are those of convolutions, linear
layers and attention, a multiplication and an addition counted as two.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from diffusion_perception.core.checkpoints.architecture import VAEArchitecture
from diffusion_perception.core.checkpoints.checkpoint import open_all
from diffusion_perception.core.generations import SD_LATENTS
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.core.tiny_vae import KINDS, untrained
from diffusion_perception.trainer.base import ARCHITECTURES
from diffusion_perception.trainer.cli import main as command
from diffusion_perception.trainer.config import Distillation

TOKENS = 2
Part = tuple[Callable[..., Any], tuple[Tensor, ...]]
"""A network and what it is shown."""


def parts(size: int) -> dict[str, Part]:
    """Everything that a prediction may run at size x size, on the current device."""
    cells = size // 8
    shape, usual = ARCHITECTURES["sd21"], Distillation()
    vae = AutoencoderKL.from_config(VAEArchitecture.usual(SD_LATENTS).config()).eval()
    picture, latent = torch.rand(1, 3, size, size), torch.randn(1, 4, cells, cells)
    shown = (latent, torch.ones(1), torch.randn(1, TOKENS, shape.context_dim))
    width, blocks = usual.light_width, usual.light_blocks
    return {
        "UNet": (UNet2DConditionModel.from_config(shape.config()).eval(), shown),
        "VAE encoder": (vae.encode, (picture,)),
        "VAE decoder": (vae.decode, (latent,)),
        "light encoder": (untrained("encoder", 3, width, blocks).eval(), (picture,)),
        "light decoder, 1 channel": (untrained("decoder", 1, width, blocks).eval(), (latent,)),
        "light decoder, 3 channels": (untrained("decoder", 3, width, blocks).eval(), (latent,)),
        **taesd(picture, latent),
    }


def taesd(picture: Tensor, latent: Tensor) -> dict[str, Part]:
    """TAESD's halves, from the shapes that they are published in."""
    encoder, decoder = (
        KINDS[3].build(_taesd_shapes("encoder"), torch.nn),
        KINDS[2].build(_taesd_shapes("decoder"), torch.nn),
    )
    return {"TAESD encoder": (encoder, (picture,)), "TAESD decoder": (decoder, (latent,))}


def _taesd_shapes(role: str) -> dict[str, tuple[int, ...]]:
    from diffusers import AutoencoderTiny

    moved = 1 if role == "decoder" else 0
    with torch.device("meta"):
        tensors = getattr(AutoencoderTiny(), role).state_dict()
    split = {name.removeprefix("layers.").partition("."): tensor for name, tensor in tensors.items()}
    return {f"{int(number) + moved}.{rest}": tuple(tensor.shape) for (number, _, rest), tensor in split.items()}


TOTALS = {
    "full": ("UNet", "VAE encoder", "VAE decoder"),
    "light decoder": ("UNet", "VAE encoder", "light decoder, 3 channels"),
    "light decoder and encoder": ("UNet", "light encoder", "light decoder, 3 channels"),
    "TAESD decoder": ("UNet", "VAE encoder", "TAESD decoder"),
    "TAESD decoder and encoder": ("UNet", "TAESD encoder", "TAESD decoder"),
}
"""Whole one-step predictions."""


def _flops(size: int) -> dict[str, float]:
    """TFLOPs of each part; nothing is computed and no memory taken."""
    with torch.device("meta"):
        found = parts(size)
        return {name: _counted(*part) for name, part in found.items()}


def _counted(network: Callable[..., Any], shown: tuple[Tensor, ...]) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*shown)
    return counter.get_total_flops() / 1e12


def _seconds(size: int, repeats: int, device: str) -> dict[str, float]:
    """The least time of each part; on a CPU that of the processor, added up over its cores."""
    with torch.device(device):
        found = parts(size)
    return {name: min(_timed(*part, device) for _ in range(repeats)) for name, part in found.items()}


def _timed(network: Callable[..., Any], shown: tuple[Tensor, ...], device: str) -> float:
    # whatever else a machine does weighs on the clock on the wall, and hardly on the processor's
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    with torch.inference_mode():
        network(*shown)
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def table(size: int, repeats: int, device: str) -> None:
    """Print what each part and each whole prediction takes."""
    columns = {"TFLOPs": _flops(size)}
    if repeats:
        columns["seconds"] = _seconds(size, repeats, device)
    print(f"SD2.1's shape at {size}x{size}, one step, batch 1, {TOKENS} tokens")
    print(row("", *(heading for name in columns for heading in (name, "of full"))))
    wholes = {
        name: {total: sum(held[part] for part in of) for total, of in TOTALS.items()} for name, held in columns.items()
    }
    for part in columns["TFLOPs"]:
        print(row(part, *(f"{value:.3f}" if value else "" for held in columns.values() for value in (held[part], 0))))
    for total in TOTALS:
        cells = [
            text for held in wholes.values() for text in (f"{held[total]:.3f}", f"{held[total] / held['full']:.3f}")
        ]
        print(row(f"prediction, {total}", *cells))


def row(first: str, *others: str) -> str:
    return f"{first:38}" + "".join(f"{text:>10}" for text in others)


# What they cost


def _distil(arguments: argparse.Namespace) -> None:
    """Train light halves for the tasks of a checkpoint, measure them, and put them into a copy of it."""
    recipes = [checkpoint.recipe for checkpoint in open_all(arguments.model) if not checkpoint.recipe.head]
    wanted = [recipe for recipe in recipes if recipe.row.name in (arguments.tasks or ("depth", "normal"))]
    runs = {f"decoder of {recipe.id}": ("decoder", [recipe]) for recipe in wanted}
    if arguments.encoder_steps:
        runs["encoder"] = ("encoder", wanted)
    files: dict[str, list[Path]] = {"decoder": [], "encoder": []}
    for name, (role, taught) in runs.items():
        folder = arguments.out / name.replace(" ", "-")
        said(command(["train", *flags(arguments, role, taught, folder)]))
        best = folder / "best.safetensors"
        files[role].append(best if best.is_file() else folder / "last.safetensors")
        _report(name, folder, taught)
    export = [
        "export",
        "--model",
        str(arguments.model),
        "--out",
        str(arguments.out / "light.safetensors"),
        "--dtype",
        "fp32",
    ]
    said(
        command(
            [*export, *(word for role, held in files.items() for file in held for word in (f"--{role}", str(file)))]
        )
    )


def flags(arguments: argparse.Namespace, role: str, recipes: list[Recipe], out: Path) -> list[str]:
    """The command line of one run."""
    resolution = recipes[0].resolution or 256
    settings = {
        "preset": f"light-{role}",
        "tasks": ",".join(recipe.row.name for recipe in recipes),
        "base": arguments.model,
        "data": arguments.data,
        "validation": arguments.held_out,
        "out": out,
        "size": f"{resolution},{resolution}",
        "steps": arguments.encoder_steps if role == "encoder" else arguments.steps,
        "validate-every": max((arguments.encoder_steps if role == "encoder" else arguments.steps) // 4, 1),
        "save-every": 200,
        "batch-size": arguments.batch_size,
        "workers": arguments.workers,
        "precision": arguments.precision,
        "frozen-precision": "fp32" if arguments.precision == "no" else arguments.precision,
        "lr": arguments.lr,
        "outcome": arguments.outcome if role == "encoder" else 0.0,
        "predicted": arguments.predicted,
        "validation-images": arguments.pictures,
    }
    return [f"--{name}={value}" for name, value in settings.items()]


def _report(name: str, folder: Path, recipes: list[Recipe]) -> None:
    """Print what the best of a run's validations says of full beside light."""
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    found = min((row["validation"] for row in rows if "validation" in row), key=lambda held: held["score"])
    for recipe in recipes:
        for metric in recipe.row.metrics:
            full, light = found[f"{recipe.id}/{metric}-full"], found[f"{recipe.id}/{metric}"]
            change = f"{light - full:+.4g}" + (f", {(light - full) / full:+.2%}" if full else "")
            print(f"{name}: {recipe.id} {metric} full {full:.5g}, light {light:.5g} ({change})")


def said(status: int) -> None:
    """The command has told what was wrong."""
    if status:
        raise SystemExit(status)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=768, help="of the picture that is counted and timed")
    parser.add_argument("--time", action="store_true", help="time each part too")
    parser.add_argument("--repeats", type=int, default=2, help="of each timing, of which the least counts")
    parser.add_argument("--device", default="cpu", help="that is timed")
    parser.add_argument("--model", type=Path, help="checkpoint to train light halves for")
    parser.add_argument("--data", type=Path, help="folder to learn from")
    parser.add_argument("--held-out", type=Path, help="folder to measure on")
    parser.add_argument("--out", type=Path, default=Path("light"), help="folder for runs and the checkpoint")
    parser.add_argument("--tasks", nargs="*", help="of the checkpoint; depth and normal if left out")
    parser.add_argument("--steps", type=int, default=2000, help="for each decoder")
    parser.add_argument("--encoder-steps", type=int, default=2000, help="for the encoder; 0 trains none")
    parser.add_argument("--outcome", type=float, default=0.0, help="light.outcome of the encoder")
    parser.add_argument("--predicted", type=float, default=0.5, help="light.predicted of the decoders")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--pictures", type=int, default=200, help="that are measured on")
    arguments = parser.parse_args()
    if arguments.model is None:
        table(arguments.size, arguments.repeats if arguments.time else 0, arguments.device)
    else:
        _distil(arguments)


if __name__ == "__main__":
    main()
