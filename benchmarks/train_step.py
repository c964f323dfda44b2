"""A training step of this project beside a plain one written with diffusers and peft: time and peak memory, as a ratio.

    python benchmarks/train_step.py                      # SD2.1's shape, LoRA of rank 16, batch 1, 512x512
    python benchmarks/train_step.py --full --architecture starter --size 192 --batch 8 --precision bf16
    python benchmarks/train_step.py --full --device cuda --precision bf16 --checkpointing --size 768 --steps 30

Weights are random: neither time nor memory depends on them. Both steps run the very same UNet, VAE and LoRA in one
process, in turn, so that whatever else the machine does weighs on both alike. On a CPU its own time is counted, which
does not grow while others have it. The median of each counts. Memory is measured in a process each.
"""

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
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from diffusion_perception.core.checkpoints.architecture import UNetArchitecture, VAEArchitecture
from diffusion_perception.core.checkpoints.networks import open_networks
from diffusion_perception.core.checkpoints.tensors import DTYPES
from diffusion_perception.core.generations import SD_LATENTS
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer.base import ARCHITECTURES
from diffusion_perception.trainer.config import Config, Network, Optimiser
from diffusion_perception.trainer.data.batches import Batch, Batches
from diffusion_perception.trainer.journal import Journal
from diffusion_perception.trainer.loop import Run, take_step
from diffusion_perception.trainer.optimiser import Average
from diffusion_perception.trainer.runs.perception import PerceptionModel
from diffusion_perception.trainer.runs.trainable import choose, groups

GIB = 2**30
ROOT = Path(__file__).absolute().parents[1]


STARTER = "starter"


def shapes(architecture: str) -> tuple[UNetArchitecture, VAEArchitecture]:
    """Of the starter checkpoint, or of a row of ARCHITECTURES and Stable Diffusion's VAE."""
    if architecture != STARTER:
        return ARCHITECTURES[architecture], VAEArchitecture.usual(SD_LATENTS)
    networks = open_networks(ROOT / "weights" / "starter.safetensors")
    assert networks.vae_architecture is not None
    return networks.architecture, networks.vae_architecture


def model(config: Config, architecture: str) -> PerceptionModel:
    """Networks of the real shape, with what does not learn in the precision of the step."""
    shape, vae_shape = shapes(architecture)
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(shape.config())
        vae = AutoencoderKL.from_config(vae_shape.config())
    unet, vae = unet.to_empty(device="cpu"), vae.to_empty(device="cpu")
    _scatter(unet)
    _scatter(vae)
    tokens = torch.randn(1, 2, shape.context_dim)
    made = PerceptionModel(unet, vae, {"depth": tokens}, {"depth": Recipe("depth")}, config.objective)
    choose(made, config)
    for weight in made.parameters():
        if not weight.requires_grad:
            weight.data = weight.data.to(DTYPES[config.network.frozen_precision])
    return made


@torch.no_grad()
def _scatter(network: nn.Module) -> None:
    """Random weights, drawn once and repeated, which takes a hundredth of the time."""
    drawn = torch.randn(2**20) * 0.02
    for weight in network.parameters():
        for part in weight.view(-1).split(len(drawn)):
            part.copy_(drawn[: len(part)])


def ours(made: PerceptionModel, config: Config, batch: Batch, out: Path) -> Callable[[], None]:
    """A function that takes one step as `train` does."""
    accelerator = Accelerator(mixed_precision=config.precision, cpu=config.device == "cpu")
    optimiser = torch.optim.AdamW(list(groups(made, config)), lr=config.optimiser.lr)
    model, optimiser = accelerator.prepare(made, optimiser)
    nothing: Any = None  # to evaluator by
    data = Batches([], 1, 1, 0)
    run = Run(config, accelerator, made, model, optimiser, Average({}, 0.0), data, nothing, Journal(out, True))
    number = 0

    def step() -> None:
        nonlocal number
        take_step(run, [batch], number)
        number += 1

    return step


def plain(made: PerceptionModel, config: Config, batch: Batch, device: torch.device) -> Callable[[], None]:
    """The same step with nothing but diffusers, peft and PyTorch."""
    unet, vae = made.unet, made.vae
    optimiser = torch.optim.AdamW((weight for weight in unet.parameters() if weight.requires_grad), lr=1e-4)
    context = made.contexts.detach()
    dtype = vae.dtype
    half = torch.autocast(device.type, torch.bfloat16) if config.precision == "bf16" else contextlib.nullcontext()

    def encode(picture: Tensor) -> Tensor:
        with torch.no_grad():
            return vae.encode(picture.to(dtype)).latent_dist.mode() * vae.config.scaling_factor

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


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    if device.type == "cpu":
        start = time.process_time()
        step()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def _peak(device: torch.device) -> float:
    """GiB that this process has needed at most."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Median seconds of each step, or the peak memory of the one that is named."""
    device = torch.device(arguments.device)
    config = Config(
        device=arguments.device,
        precision=arguments.precision,
        network=Network(
            unet="full" if arguments.full else "lora",
            rank=arguments.rank,
            checkpointing=arguments.checkpointing,
            frozen_precision="bf16" if arguments.precision == "bf16" else "fp32",
        ),
        optimiser=Optimiser(lr=1e-4),
    )
    torch.manual_seed(0)
    made = model(config, arguments.architecture).to(device)
    picture = torch.rand(arguments.batch, 3, arguments.size, arguments.size) * 2 - 1
    valid = torch.ones(arguments.batch, 1, arguments.size, arguments.size, dtype=torch.bool)
    batch = Batch("depth", picture, picture.flip(-1), valid, torch.arange(arguments.batch))
    with TemporaryDirectory() as folder:
        # `plain` comes first: accelerate wraps the forward of the module that it prepares
        steps = {"plain": plain(made, config, batch, device), "ours": ours(made, config, batch, Path(folder))}
        if arguments.only:
            steps[arguments.only]()
            return {"memory": _peak(device)}
        times: dict[str, list[float]] = {name: [] for name in steps}
        for turn in range(arguments.steps + 1):
            for name in steps if turn % 2 else reversed(steps):
                taken = _seconds(steps[name], device)
                if turn:  # the first is a warm-up
                    times[name].append(taken)
            # a run that is stopped has said how far it got
            print(turn, {name: [round(value, 3) for value in taken] for name, taken in times.items()}, flush=True)
        return {name: median(taken) for name, taken in times.items()}


def memory(arguments: list[str], name: str) -> float:
    """Peak memory of one of the two, in a process of its own."""
    command = [sys.executable, __file__, *arguments, "--only", name]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(said.splitlines()[-1])["memory"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="no", choices=["no", "bf16"])
    parser.add_argument("--architecture", default="sd21", choices=[*ARCHITECTURES, STARTER])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--full", action="store_true", help="all of the UNet learns, not LoRA")
    parser.add_argument("--only", choices=["ours", "plain"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    found = measure(arguments)
    if arguments.only:
        print(json.dumps(found))
        return
    held = {name: memory(sys.argv[1:], name) for name in ("ours", "plain")}
    learns = "full" if arguments.full else f"LoRA r{arguments.rank}"
    print(
        f"{arguments.architecture}, {learns}, {arguments.precision}, batch {arguments.batch}, {arguments.size} px, "
        f"{arguments.device}"
    )
    print(f"{'':8}{'seconds':>10}{'GiB':>8}")
    for name in ("plain", "ours"):
        print(f"{name:8}{found[name]:10.3f}{held[name]:8.2f}")
    print(f"{'ratio':8}{found['ours'] / found['plain']:10.3f}{held['ours'] / held['plain']:8.3f}")


if __name__ == "__main__":
    main()
