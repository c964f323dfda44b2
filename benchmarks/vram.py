"""What predicting and training take of a card's memory, computed; and what a CPU holds at most, as a check.

    python benchmarks/vram.py                # the tables of the README and the guides: no weights, a few minutes
    python benchmarks/vram.py --check 512    # one prediction at that size with random weights of SD2.1's, minutes

Predicting: weights from their number, work from ComfyUI's own estimates, which decide what it puts aside and when
(memory_required of its models with PyTorch's attention, as on NVIDIA cards, memory_used_encode and _decode of its VAE).
Training: what lives during a pass on tensors without contents, and its arithmetic. No card was at hand: whatever
another program, the desktop or the allocator takes comes on top.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).absolute().parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests"), str(ROOT / "tests" / "host")]

import comfyui_host  # noqa: E402
import guides  # noqa: E402
from inside_host import InsideHost  # noqa: E402

from diffusion_perception.core.checkpoints.architecture import VAEArchitecture  # noqa: E402
from diffusion_perception.core.generations import SD_LATENTS  # noqa: E402
from diffusion_perception.trainer.base import ARCHITECTURES, Start  # noqa: E402
from diffusion_perception.trainer.config import Config, read  # noqa: E402
from diffusion_perception.trainer.data.batches import Batch  # noqa: E402
from diffusion_perception.trainer.data.feeds import recipe_for  # noqa: E402
from diffusion_perception.trainer.optimiser import MOMENTS  # noqa: E402
from diffusion_perception.trainer.runs.perception import PerceptionModel  # noqa: E402
from diffusion_perception.trainer.train import make  # noqa: E402

GIB = 2**30
SIDES = (512, 768, 1024)
CARDS = {"RTX 3060": 25, "RTX 3090": 71, "RTX 4090": 165, "A100": 312}
"""Dense bf16 arithmetic with fp32 sums, 10^12 operations a second, by NVIDIA's data sheets."""
SIZES = (6, 8, 12, 16, 24, 32, 48, 80)
"""Cards by their memory: of 12 GB is an RTX 3060, of 24 a 3090 or 4090, of 32 a 5090, of 80 an A100 or H100."""
LEFT = 0.9
"""Of a card's memory, assumed: what the desktop, the allocator and the optimiser's step leave."""
REACHED = 1 / 3
"""Of that, assumed: what training steps of this kind commonly reach."""


# Predicting


def _host_estimates(sides: list[int]) -> dict[str, Any]:
    """Inside ComfyUI: bytes of work by what works and side; `kept free`: what it leaves of a card when it loads."""
    import comfy.model_management as management

    from diffusion_perception.core.vae_tiles import TILES
    from diffusion_perception.nodes import host
    from diffusion_perception.nodes.load import LoadModel

    management.pytorch_attention_flash_attention = lambda: True
    model, vae = LoadModel.execute("starter.safetensors", "auto", "depth", "").result[:2]
    full, half = (host.HostAutoencoder(vae, precision=name) for name in ("full", "as the host runs it"))

    def halves(autoencoder: Any, side: int) -> list[float]:
        vae, cells = autoencoder.vae, side // 8
        encode = vae.memory_used_encode((1, 3, side, side), autoencoder.dtype)
        return [encode, vae.memory_used_decode((1, 4, cells, cells), autoencoder.dtype)]

    unet = model.backbone.patcher.model
    tile = TILES[0] * 8
    found = {
        "unet": [unet.memory_required([1, 4, side // 8, side // 8]) for side in sides],
        "full": [halves(full, side) for side in sides],
        "half": [halves(half, side) for side in sides],
        "tiles": [halves(full, min(side, tile)) for side in sides],
        "light": [[side**2 * host.BYTES_A_PIXEL] * 2 for side in sides],
    }
    return {**found, "kept free": management.minimum_inference_memory(), "dtypes": f"{full.dtype} {half.dtype}"}


@dataclass(frozen=True)
class Way:
    """How the VAE is run: whose halves."""

    title: str
    encoder: str
    decoder: str


WAYS = (
    Way("`vae_precision` = `full` (as a node begins)", "full", "full"),
    Way("`as the host runs it`, in half precision", "half", "half"),
    Way("`full`, in tiles of 512 pixels", "tiles", "tiles"),
    Way("`full`, `decoder` = `light`", "full", "light"),
    Way("`decoder` and `encoder` = `light`", "light", "light"),
)


def _weights_of(network: type[Any], config: Mapping[str, Any]) -> int:
    """How many numbers."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in network.from_config(config).parameters())


def _predicting(inside: InsideHost) -> Iterator[str]:
    """The README's table."""
    found = inside(_host_estimates, host_arguments=("--cpu", "--fp16-unet", "--bf16-vae"), sides=list(SIDES))
    unet = 2 * _weights_of(UNet2DConditionModel, ARCHITECTURES["sd21"].config())
    vae = 2 * _weights_of(AutoencoderKL, VAEArchitecture.usual(SD_LATENTS).config())
    yield f"UNet of SD2.1 {shown(unet)}, VAE {shown(vae)} (16 bits a weight); kept free {shown(found['kept free'])}."
    yield f"Work of the UNet at {SIDES}: {', '.join(map(shown, found['unet']))}. VAE: {found['dtypes']}."
    yield ""
    yield f"| the VAE | {' | '.join(f'{side}x{side}' for side in SIDES)} |"
    yield f"|---|{'---|' * len(SIDES)}"
    for way in WAYS:
        held = vae if {way.encoder, way.decoder} != {"light"} else 0
        cells = []
        for number in range(len(SIDES)):
            works = found[way.encoder][number][0], found[way.decoder][number][1]
            least = max(held + max(works), unet + found["unet"][number])
            cells.append(f"{shown(least)} / {shown(unet + held + max(*works, found['unet'][number]))}")
        yield f"| {way.title} | {' | '.join(cells)} |"


def shown(size: float) -> str:
    return f"{size / GIB:.1f} GiB"


# Training


def _start_of(generation: str) -> Start:
    """Networks of the real shape with nothing in them: pages that nobody writes to take no memory."""
    shape, vae_shape = ARCHITECTURES[generation], VAEArchitecture.usual(SD_LATENTS)
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel.from_config(shape.config()), AutoencoderKL.from_config(vae_shape.config())
    unet, vae = unet.to_empty(device="cpu"), vae.to_empty(device="cpu")

    def context(task: str, tokens: int) -> torch.Tensor:
        return torch.zeros(1, tokens, shape.context_dim)

    return Start(unet, shape, vae, vae_shape, context, {})


def _generation_of(config: Config) -> str:
    """What its papers, or the guides, start from."""
    return "sd15" if config.recipe.get("family") == "dmp" or "1.5" in config.title else "sd21"


def _batch_of(config: Config, task: str) -> Batch:
    count, (height, width) = config.batch_size, config.size
    picture = torch.zeros(count, 3, height, width)
    return Batch(task, picture, picture.clone(), picture[:, :1] == 0, torch.arange(count))


@dataclass(frozen=True)
class Estimate:
    """Bytes that one optimiser step takes on one process."""

    weights: int
    """Networks."""
    optimiser: int
    """Moments and moving averages."""
    activations: int
    """What lives during a step besides, at its peak: activations and gradients."""

    @property
    def memory(self) -> int:
        return self.weights + self.optimiser + self.activations


class Living(TorchDispatchMode):
    """Adds up the memory that tensors hold while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        # a view holds nothing of its own
        for tensor in [] if getattr(function, "is_view", False) else tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.count(tensor.untyped_storage())
        return result

    def count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.known:
            return
        self.known.add(key)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.free, key, storage.nbytes())

    def free(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


Autocast = Callable[[], AbstractContextManager[Any]]


def _step_of(config: Config) -> tuple[PerceptionModel, Batch, Autocast]:
    """What one step runs."""
    # a processor's half is bf16; it takes as many bytes
    config = replace(config, precision="bf16" if config.precision == "fp16" else config.precision)
    (task,) = config.tasks
    model, _ = make(config, _start_of(_generation_of(config)), {task: recipe_for(task, config, "custom")})
    half = partial(torch.autocast, "cpu", torch.bfloat16) if config.precision == "bf16" else nullcontext
    return model.train(), _batch_of(config, task), half


def _run_without_contents(config: Config, watching: AbstractContextManager[Any]) -> PerceptionModel:
    """One forward and backward pass on tensors that have a shape and nothing in them; the model that took it."""
    model, batch, autocast = _step_of(config)
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        image, target, valid = map(fake.from_tensor, (batch.image, batch.target, batch.valid))
        shapes = Batch(batch.task, image, target, valid, batch.seeds)
        with watching:
            with autocast():
                total = _rehearse(model, shapes)
            torch.autograd.grad(total, learning, allow_unused=True)
    return model


def _rehearse(model: PerceptionModel, batch: Batch) -> torch.Tensor:
    """A pass through every network that a step runs, with a gradient and without losses, which look at contents."""
    image = model.encode(batch.image, batch, "image")
    timesteps, tokens = torch.ones(len(batch), device=image.device), model.tokens(batch.task, len(batch))
    if model.head is not None:
        return model.read_head(image, timesteps, tokens, batch.image.shape[-2:]).sum()
    model.encode(batch.target, batch, "target")
    output = model.output(image.repeat(1, model.unet.config.in_channels // image.shape[1], 1, 1), timesteps, tokens)
    return (output if model.settings.loss == "latent" else model.decode(output)).sum()


def _memory_of(config: Config) -> Estimate:
    living = Living()
    model = _run_without_contents(config, living)
    moving = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return Estimate(
        weights=sum(weight.numel() * weight.element_size() for weight in model.parameters()),
        optimiser=(MOMENTS[config.optimiser.name] + 4 * bool(config.optimiser.ema)) * moving,
        activations=living.peak,
    )


def _operations(config: Config) -> int:
    """Of one optimiser step, forward and backward."""
    counter = FlopCounterMode(display=False)
    _run_without_contents(config, counter)
    return counter.get_total_flops() * config.accumulation


def _lean(config: Config) -> Config:
    """The same step, as small as it goes: one picture after the other."""
    full = config.network.unet == "full"
    return replace(
        config,
        precision="bf16",
        batch_size=1,
        accumulation=config.batch_size * config.accumulation,
        network=replace(config.network, checkpointing=True, frozen_precision="bf16"),
        optimiser=replace(config.optimiser, name="adamw8bit" if full else config.optimiser.name),
    )


SHOWN = {
    "genpercept-normal": "`genpercept-normal`, `-disparity`, `-mask`, `-matte`, `-segmentation`",
    "genpercept-depth": "`genpercept-depth`",
    "genpercept-fixed-timestep": "`genpercept-4090-*` but `-disparity-dpt`, `genpercept-fixed-timestep`, `-blending`, "
    "`marigold-depth`",
    "genpercept-disparity-dpt": "`genpercept-disparity-dpt`",
    "genpercept-4090-disparity-dpt": "`genpercept-4090-disparity-dpt`",
    "genpercept-lora": "`genpercept-lora`",
    "genpercept-v1-depth": "`genpercept-v1-depth`",
    "genpercept-v1-normal": "`genpercept-v1-normal`, `-mask`, `-matte`, `-segmentation`",
    "marigold-v1-1-depth": "`marigold-v1-1-depth`, `-normal`",
    "e2e-ft-depth": "`e2e-ft-depth`, `-normal`",
    "dmp-normal": "`dmp-normal`, `-depth`, `-albedo`, `-shading`, `-segmentation`",
}
"""Presets whose steps are alike stand in one row; ablations that nobody repeats at home are left out."""


def _of_guides() -> Iterator[tuple[str, Config]]:
    """The configs that the guides have for Stable Diffusion."""
    for page in sorted(guides.TRAINING):
        for name, text in guides.configs(page).items():
            config = guides.config_of(text)
            if max(config.size) >= 256:
                yield f"[{name}]({page}.md)", config


def training() -> Iterator[str]:
    """The table of the guides' configs and of presets; of the former their hours too."""
    yield "| config | pictures at once | as it is | card | leanest | card |"
    yield "|---|---|---|---|---|---|"
    ours = list(_of_guides())
    presets = ((title, read(None, {"preset": name})) for name, title in SHOWN.items())
    for name, config in (*ours, *presets):
        height, width = config.size
        cells = (f"{parts(memory)} | {_card_for(memory)}" for memory in map(_memory_of, (config, _lean(config))))
        yield f"| {name} | {config.batch_size} of {height}x{width} | {' | '.join(cells)} |"
    yield ""
    for name, config in ours:
        count = _operations(config) * config.steps
        hours = (f"{card} {_digits(count / (rate * 1e12 * REACHED) / 3600)} h" for card, rate in CARDS.items())
        yield f"{name}: {count / config.steps / 1e12:.0f} x 10^12 operations a step; {', '.join(hours)}."


def parts(memory: Estimate) -> str:
    """In all, and networks + optimiser + activations and gradients."""
    held = " + ".join(f"{size / GIB:.1f}" for size in (memory.weights, memory.optimiser, memory.activations))
    return f"{memory.memory / GIB:.1f} GiB ({held})"


def _card_for(memory: Estimate) -> str:
    """The smallest card that holds it."""
    size = next((size for size in SIZES if memory.memory <= LEFT * size * GIB), None)
    return f"{size} GB" if size else "none"


def _digits(value: float) -> str:
    """Two of them."""
    return f"{value:.{max(0, 1 - math.floor(math.log10(value)))}f}" if value < 10 else f"{value:.0f}"


# The check


def _on_this_processor(model: str, side: int) -> dict[str, list[float]]:
    """Inside ComfyUI: what works -> bytes by its estimate, and what the process held at most beside what it had."""
    import comfy.model_management as management
    import torch

    from diffusion_perception.nodes import host
    from diffusion_perception.nodes.load import LoadModel

    management.pytorch_attention_flash_attention = lambda: True
    perceiver, held = LoadModel.execute(model, "auto", "depth", "").result[:2]
    vae, unet = host.HostAutoencoder(held), perceiver.backbone
    small = vae.decode(vae.encode(torch.zeros(1, 3, 64, 64)))
    unet(torch.zeros(1, 4, 8, 8), torch.ones(1), perceiver.context)  # what is made only once
    picture = torch.rand(1, small.shape[1], side, side) * 2 - 1
    latent, encode = _held_at_most(lambda: vae.encode(picture))
    output, one_pass = _held_at_most(lambda: unet(latent, torch.ones(1), perceiver.context))
    _, decode = _held_at_most(lambda: vae.decode(output))
    return {
        "encode": [vae.vae.memory_used_encode(picture.shape, torch.float32), encode],
        "UNet": [unet.patcher.model.memory_required(list(latent.shape)), one_pass],
        "decode": [vae.vae.memory_used_decode(latent.shape, torch.float32), decode],
    }


def _held_at_most(work: Any) -> Any:
    """What it gives, and the bytes that were resident at most over what was before (Linux)."""
    import ctypes
    from pathlib import Path

    def resident(key: str) -> int:
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
        return int(line.split()[1]) * 1024

    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    result = work()
    return result, resident("VmHWM") - before


def check(inside: InsideHost, side: int) -> Iterator[str]:
    """Estimates in single precision beside what a processor holds."""
    from test_real_size import write_sd21

    write_sd21(inside.base / "models" / "perception" / "random", 4)
    found = inside(_on_this_processor, _held_at_most, timeout=3600, model="random", side=side)
    yield f"| work at {side}x{side}, fp32 | ComfyUI's estimate | held on this processor |"
    yield "|---|---|---|"
    yield from (
        f"| {name} | {estimate / GIB:.2f} GiB | {held / GIB:.2f} GiB |" for name, (estimate, held) in found.items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", type=int, metavar="SIDE", help="hold the estimates against a prediction on this CPU")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        inside = InsideHost(comfyui_host.install(), Path(folder))
        for line in check(inside, arguments.check) if arguments.check else _predicting(inside):
            print(line, flush=True)
    if not arguments.check:
        print()
        for line in training():
            print(line, flush=True)


if __name__ == "__main__":
    main()
