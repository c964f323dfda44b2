"""What a perceiving adapter adds to the memory of a ComfyUI that holds a Stable Diffusion model, beside a second UNet.

    python benchmarks/resident.py              # SD2.1's size, 512x512, single precision on a CPU: minutes

Random weights. The host loads a UNet and a VAE, as for generating, and the UNet answers once. Then, in a process each,
the picture is perceived by an adapter of rank 16 on that very UNet, or by a perception model of its own, which is what
packs with weights of their own do. MiB over what was resident before: what stays afterwards, and the peak.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).absolute().parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests" / "host"), str(ROOT / "tests"), str(ROOT / "benchmarks")]

import comfyui_host  # noqa: E402
import speed  # noqa: E402
import torch  # noqa: E402
from inside_host import InsideHost  # noqa: E402

ADAPTER = "rank 16.safetensors"
WAYS = ("an adapter on the resident UNet", "a second UNet")


def _perceived(model: str, adapter: str, way: str, size: int, threads: int) -> dict[str, float]:
    """MiB that stay and the peak, over a host that holds the UNet and the VAE of this folder of models/perception."""
    import gc
    from pathlib import Path

    import comfy.sd
    import comfy.utils
    import folder_paths
    import torch

    from diffusion_perception.nodes import host
    from diffusion_perception.nodes.adapt import ApplyAdapter
    from diffusion_perception.nodes.load import LoadModel
    from diffusion_perception.nodes.perceive import Perceive

    def resident(key: str) -> float:
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
        return int(line.split()[1]) / 1024

    torch.set_num_threads(threads)
    folder = Path(folder_paths.models_dir) / "perception" / model
    weights = "diffusion_pytorch_model.safetensors"
    unet = comfy.sd.load_diffusion_model(str(folder / "unet_depth_v2" / weights))
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(folder / "vae" / weights)))
    picture = torch.rand(1, size, size, 3, generator=torch.Generator().manual_seed(0))
    # the host as it is after a generation: all three networks have run
    vae.decode(vae.encode(picture))
    host.resident(unet, clean=False)(
        torch.zeros(1, 4, size // 8, size // 8), torch.tensor([1.0]), host.Context(torch.zeros(1, 2, 1024))
    )
    gc.collect()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    if way == "a second UNet":
        (perception, *_) = LoadModel.execute(model, "auto", "depth", "").result
    else:
        (perception,) = ApplyAdapter.execute(unet, vae, adapter, "as trained", "", "as loaded").result
    kept = Perceive.execute(perception, picture, resolution=0, batch_size=1)
    peak = resident("VmHWM") - before
    gc.collect()
    return {"stays": resident("VmRSS") - before, "peak": peak, "maps": len(kept.result)}


def _write_adapter(path: Path) -> None:
    """Random, of rank 16 on all attentions of SD2.1's UNet, with its text context."""
    from diffusers import UNet2DConditionModel
    from loading import UNET
    from tiny_adapters import KINDS, adapter_of, layers_of

    from diffusion_perception.core.checkpoints import adapter_file
    from diffusion_perception.core.checkpoints.adapters import LowRank
    from diffusion_perception.core.recipe import Recipe

    with torch.device("meta"):
        network = UNet2DConditionModel.from_config(UNET | {"in_channels": 4})
    parts = {
        name: LowRank(torch.randn(16, layer.in_features).half() / 1000, torch.randn(layer.out_features, 16).half())
        for name, layer in layers_of(network).items()
        if KINDS["attention"](name, layer)
    }
    held = adapter_of(parts, base="sd21", recipes=(Recipe("depth"),))
    adapter_file.write_adapter(path, held, contexts={"depth": torch.zeros(1, 2, 1024)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=Path("runs/speed"), help="as of speed.py")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as base:
        inside = InsideHost(comfyui_host.install(), Path(base))
        folder = arguments.weights.absolute() / speed.MODEL
        speed.write(folder)
        models = inside.base / "models" / "perception"
        models.mkdir(parents=True, exist_ok=True)
        (models / speed.MODEL).symlink_to(folder)
        _write_adapter(models / ADAPTER)
        print(f"The adapter's file: {(models / ADAPTER).stat().st_size / 2**20:.1f} MiB")
        how = {"model": speed.MODEL, "adapter": ADAPTER, "size": arguments.size, "threads": arguments.threads}
        for way in WAYS:
            found[way] = inside(_perceived, way=way, timeout=7200, **how)
            print(f"{way}: {found[way]['stays']:.0f} MiB stay, the peak is {found[way]['peak']:.0f} MiB above before")
    if arguments.out:
        machine = speed.machine(SimpleNamespace(gpu=False, **{key: how[key] for key in ("size", "threads")}))
        arguments.out.write_text(json.dumps({"machine": machine, "rows": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
