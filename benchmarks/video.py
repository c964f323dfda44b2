"""What perceiving the frames of a video takes of memory, beside the frames and the maps themselves.

    python benchmarks/video.py --out benchmarks/results/video-memory.json        # minutes

The starter's depth in ComfyUI on a CPU, frames of 512x512, by the nodes that a graph has: Load Perception Model and
Perceive. Each length in a process of its own, which has perceived one frame before. What counts is the peak over what
was resident, less the three outputs: the map, its picture and its mask. Of `predict` on a folder of as many frames it
is the peak of the whole command.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).absolute().parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests" / "host"), str(ROOT / "benchmarks")]

import comfyui_host  # noqa: E402
import speed  # noqa: E402
from inside_host import InsideHost  # noqa: E402

STARTER = ROOT / "weights" / "starter.safetensors"


def _perceived(model: str, frames: int, size: int) -> dict[str, float]:
    """MiB: frames, outputs, and the peak beyond both."""
    import gc
    from pathlib import Path

    import torch

    from diffusion_perception.nodes.load import LoadModel
    from diffusion_perception.nodes.perceive import Perceive

    def resident(key: str) -> float:
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
        return int(line.split()[1]) / 1024

    torch.set_num_threads(1)
    (perception, *_) = LoadModel.execute(model, "auto", "depth", "").result
    video = torch.rand(frames, size, size, 3, generator=torch.Generator().manual_seed(0))
    Perceive.execute(perception, video[:1], resolution=-1, batch_size=1)
    gc.collect()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    seen, image, mask = Perceive.execute(perception, video, resolution=-1, batch_size=1).result
    given = sum(tensor.nbytes for tensor in (seen.values, image, mask)) / 2**20
    return {"in": video.nbytes / 2**20, "out": given, "beyond": resident("VmHWM") - before - given}


def _commanded(frames: int, size: int) -> float:
    """MiB at most of `predict` on a folder of frames."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "frames"
        folder.mkdir()
        for number in range(frames):
            Image.fromarray(draw.integers(0, 256, (size, size, 3), np.uint8)).save(folder / f"{number}.jpg")
        words = ["predict", "--model", str(STARTER), "--task", "depth", "--out", f"{place}/out", str(folder)]
        child = subprocess.Popen([sys.executable, "-m", "diffusion_perception.trainer", *words], env=ONE_THREAD)
        _, status, used = os.wait4(child.pid, 0)
        if status:
            raise SystemExit("predict failed")
    return used.ru_maxrss / 1024


ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[15, 30, 60, 120, 240])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--out", type=Path, help="JSON file")
    arguments = parser.parse_args()
    found: dict[int, Any] = {}
    with tempfile.TemporaryDirectory() as base:
        inside = InsideHost(comfyui_host.install(), Path(base))
        models = inside.base / "models" / "perception"
        models.mkdir(parents=True, exist_ok=True)
        (models / STARTER.name).symlink_to(STARTER)
        for frames in arguments.frames:
            found[frames] = inside(_perceived, model=STARTER.name, frames=frames, size=arguments.size, timeout=7200)
            found[frames]["predict"] = _commanded(frames, arguments.size)
            row = {name: round(value) for name, value in found[frames].items()}
            told = "{frames} frames: {in} MiB in, {out} MiB out, {beyond} MiB beyond; predict {predict} MiB in all"
            print(told.format(frames=frames, **row), flush=True)
    if arguments.out:
        machine = speed.machine(SimpleNamespace(gpu=False, threads=1, size=arguments.size))
        arguments.out.write_text(json.dumps({"machine": machine, "MiB": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
