"""How long a real-size checkpoint takes to load in ComfyUI on a CPU, and what memory, beside diffusers.

`loading.py` writes a Marigold-like folder (8 channels, half precision, random weights, 1.9 GB), then loads its UNet and
VAE by the Load node in the ComfyUI of COMFYUI_DIR and HOST_PYTHON and by diffusers' from_pretrained, in turn, each time
in a process of its own, and prints the medians and their ratio.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).absolute().parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests" / "host"), str(ROOT / "tests")]

import comfyui_host  # noqa: E402
from inside_host import InsideHost  # noqa: E402


def measured(load: Any) -> dict[str, float]:
    """Seconds, and MiB resident at most while it runs over what was resident before."""
    import time
    from pathlib import Path

    def resident(key: str) -> float:
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
        return int(line.split()[1]) / 1024

    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, start = resident("VmRSS"), time.perf_counter()
    kept = load()
    return {"s": time.perf_counter() - start, "MiB": resident("VmHWM") - before, "parts": len(kept)}


def _by_host(folder: str, overrides: str) -> dict[str, float]:
    """The Load node."""
    from diffusion_perception.nodes.load import LoadModel

    return measured(lambda: LoadModel.execute(folder, "auto", "depth", overrides).result)


def _by_diffusers(folder: str, dtype: str) -> dict[str, float]:
    """from_pretrained, in the precision that the host chose."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    kinds = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
    chosen = {"unet": getattr(torch, dtype), "vae": torch.float32}
    return measured(
        lambda: [
            kinds[name].from_pretrained(folder, subfolder=name, torch_dtype=chosen[name], local_files_only=True)
            for name in kinds
        ]
    )


def write(folder: Path) -> None:
    """A repository as Marigold's, of random weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from test_real_size import write_sd21

    write_sd21(folder, 8)
    context = folder / "empty_text_embed.npy"
    import numpy as np

    np.save(context, np.zeros((1, 2, 1024), np.float32))
    for name, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        shape = UNET if name == "unet" else VAE
        kind.from_config(shape).save_config(folder / name)


UNET = {
    "in_channels": 8, "block_out_channels": (320, 640, 1280, 1280), "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024, "use_linear_projection": True,
}  # fmt: skip
VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip


def _diffusers_in_a_process(folder: Path, dtype: str) -> dict[str, float]:
    """by_diffusers() in a Python of its own."""
    import json
    import subprocess

    words = [sys.executable, __file__, "--diffusers", str(folder), dtype]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def compare(runs: int, flags: tuple[str, ...], dtype: str) -> None:
    """Print what both take."""
    with tempfile.TemporaryDirectory() as base:
        inside = InsideHost(comfyui_host.install(), Path(base))
        folder = inside.base / "models" / "perception" / "marigold-depth"
        write(folder)
        found: dict[str, list[dict[str, Any]]] = {"ComfyUI": [], "diffusers": []}
        for _ in range(runs):
            ours = inside(_by_host, measured, host_arguments=("--cpu", *flags), folder="marigold-depth", overrides="")
            found["ComfyUI"].append(ours)
            found["diffusers"].append(_diffusers_in_a_process(folder, dtype))
        for unit in ("s", "MiB"):
            ours, theirs = (statistics.median(run[unit] for run in found[name]) for name in found)
            print(f"{dtype}: {ours:.2f} {unit} in ComfyUI, {theirs:.2f} by diffusers: ratio {ours / theirs:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--diffusers", nargs=2, metavar=("FOLDER", "DTYPE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.diffusers:
        import json

        print(json.dumps(_by_diffusers(*arguments.diffusers)))
        return
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
    compare(arguments.runs, (), "float32")
    compare(arguments.runs, ("--fp16-unet",), "float16")


if __name__ == "__main__":
    main()
