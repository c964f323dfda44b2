"""A training step of this project beside a plain one written with diffusers and peft: time and peak memory, as a ratio.

    python benchmarks/train_step.py                      # SD2.1's shape, LoRA of rank 16, batch 1, 512x512
    python benchmarks/train_step.py --device cuda --precision bf16 --steps 30

Weights are random: neither time nor memory depends on them. Both steps run the very same UNet, VAE and LoRA in one
process, in turn, so that whatever else the machine does weighs on both alike; the least time of each counts. Memory is
measured in a process each.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from diffusion_perception.core.architecture import VAEArchitecture
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.base import ARCHITECTURES
from diffusion_perception.trainer.batches import Batch
from diffusion_perception.trainer.config import Config, Network, Optimiser
from diffusion_perception.trainer.loop import Journal, Run, take_step
from diffusion_perception.trainer.optimiser import Average
from diffusion_perception.trainer.student import Student, choose, groups

GIB = 2**30
VAE = VAEArchitecture((128, 256, 512, 512), 2)


def student(config: Config, architecture: str) -> Student:
    """Networks of the real shape with LoRA beside the UNet."""
    shape = ARCHITECTURES[architecture]
    made = Student(
        UNet2DConditionModel.from_config(shape.config()),
        AutoencoderKL.from_config(VAE.config()),
        {"depth": torch.randn(1, 2, shape.context_dim)},
        {"depth": Recipe("depth")},
        config.objective,
    )
    choose(made, config)
    return made


def ours(made: Student, config: Config, batch: Batch, out: Path) -> Callable[[], None]:
    """A function that takes one step as `train` does."""
    accelerator = Accelerator(mixed_precision=config.precision, cpu=config.device == "cpu")
    optimiser = torch.optim.AdamW(list(groups(made, config)), lr=config.optimiser.lr)
    model, optimiser = accelerator.prepare(made, optimiser)
    # neither data nor validation
    others: Any = None
    run = Run(config, accelerator, made, model, optimiser, Average({}, 0.0), others, others, Journal(out, True))
    number = 0

    def step() -> None:
        nonlocal number
        take_step(run, [batch], number)
        number += 1

    return step


def plain(made: Student, config: Config, batch: Batch, device: torch.device) -> Callable[[], None]:
    """The same step with nothing but diffusers, peft and PyTorch."""
    unet, vae = made.unet, made.vae
    optimiser = torch.optim.AdamW((weight for weight in unet.parameters() if weight.requires_grad), lr=1e-4)
    context = made.contexts.detach()
    half = torch.autocast(device.type, torch.bfloat16) if config.precision == "bf16" else contextlib.nullcontext()

    def encode(picture: Tensor) -> Tensor:
        with torch.no_grad():
            return vae.encode(picture).latent_dist.mode() * vae.config.scaling_factor

    def step() -> None:
        image, target = batch.image.to(device), batch.target.to(device)
        timestep = torch.randint(0, 1000, (len(image),), device=device)
        with half:
            output = unet(encode(image), timestep, context.expand(len(image), -1, -1)).sample
            loss = F.mse_loss(output.float(), -encode(target).float())
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def seconds(step: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak(device: torch.device) -> float:
    """GiB that this process has needed at most."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Least seconds of each step, or the peak memory of the one that is named."""
    device = torch.device(arguments.device)
    config = Config(
        device=arguments.device,
        precision=arguments.precision,
        network=Network(unet="lora", rank=arguments.rank, checkpointing=arguments.checkpointing),
        optimiser=Optimiser(lr=1e-4),
    )
    torch.manual_seed(0)
    made = student(config, arguments.architecture).to(device)
    picture = torch.rand(1, 3, arguments.size, arguments.size) * 2 - 1
    valid = torch.ones(1, 1, arguments.size, arguments.size, dtype=torch.bool)
    batch = Batch("depth", picture, picture.flip(-1), valid, torch.tensor([1]))
    with TemporaryDirectory() as folder:
        # `plain` comes first: accelerate wraps the forward of the module that it prepares
        steps = {"plain": plain(made, config, batch, device), "ours": ours(made, config, batch, Path(folder))}
        if arguments.only:
            for _ in range(2):
                steps[arguments.only]()
            return {"memory": peak(device)}
        times: dict[str, list[float]] = {name: [] for name in steps}
        for turn in range(arguments.steps + 1):
            for name in steps if turn % 2 else reversed(steps):
                taken = seconds(steps[name], device)
                if turn:  # the first is a warm-up
                    times[name].append(taken)
        return {name: min(taken) for name, taken in times.items()}


def memory(arguments: list[str], name: str) -> float:
    """Peak memory of one of the two, in a process of its own."""
    command = [sys.executable, __file__, *arguments, "--only", name]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(said.splitlines()[-1])["memory"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="no", choices=["no", "bf16"])
    parser.add_argument("--architecture", default="sd21", choices=list(ARCHITECTURES))
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--only", choices=["ours", "plain"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    found = measure(arguments)
    if arguments.only:
        print(json.dumps(found))
        return
    held = {name: memory(sys.argv[1:], name) for name in ("ours", "plain")}
    print(
        f"{arguments.architecture}, LoRA r{arguments.rank}, batch 1, {arguments.size} pixels, {arguments.device}"
    )
    print(f"{'':8}{'seconds':>10}{'GiB':>8}")
    for name in ("plain", "ours"):
        print(f"{name:8}{found[name]:10.3f}{held[name]:8.2f}")
    print(f"{'ratio':8}{found['ours'] / found['plain']:10.3f}{held['ours'] / held['plain']:8.3f}")


if __name__ == "__main__":
    main()
