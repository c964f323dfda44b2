"""How much the depth of a video flickers, as it is and steadied, on a rendered walk through rooms with exact truth.

    python benchmarks/flicker.py render FOLDER --rooms 2 --frames 32         # minutes; needs the `scenes` extra
    python benchmarks/flicker.py measure FOLDER --out benchmarks/results/flicker.json

The camera walks sideways and turns a little, as a hand would, and everything stands still. Each way of seeing the clip
is measured by two figures. Flicker: the mean of what the prediction changes between two frames at a pixel beyond what
the truth changes there, of the truth's deviation. AbsRel: after one scale and shift for the whole clip, and after one
for each frame. All of it as rendered, and shaken by noise and a changing exposure.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).absolute().parents[1]
STARTER = ROOT / "weights" / "starter.safetensors"
STEP_M, TURN_DEG = 0.02, 0.5
"""Of the camera in a frame."""


def render(folder: Path, rooms: int, frames: int, size: tuple[int, int], samples: int, seed: int) -> None:
    """A plain dataset folder; views are named <room>_<frame>."""
    from diffusion_perception.scenes import assets
    from diffusion_perception.scenes.mitsuba_render import load_room, render_views
    from diffusion_perception.scenes.rooms import plan_room
    from diffusion_perception.scenes.shelf import open_shelf
    from diffusion_perception.scenes.views import dataset_toml, is_complete, write_text, write_view

    assets.fetch(assets.cache_folder(), None)
    write_text(folder / "dataset.toml", dataset_toml("a walk through rooms", "npy"))
    for number in range(rooms):
        room = plan_room(number, seed, open_shelf().pieces, 1)
        names = [f"{number:02}_{frame:04}" for frame in range(frames)]
        if all(is_complete(folder, name) for name in names):
            continue
        loaded, walk = load_room(room, open_shelf()), _walked(room.cameras[0], frames)
        for frame, (name, camera) in enumerate(zip(names, walk)):
            if not is_complete(folder, name):
                (view,) = render_views(loaded, [camera], size, samples, seed + frame)
                write_view(folder, name, view, "npy")
                print(name, flush=True)


def _walked(start: Any, frames: int) -> list[Any]:
    """The camera of each frame."""
    cameras = []
    for frame in range(frames):
        pose = start.matrix()
        turn = np.radians(TURN_DEG * frame)
        around = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
        there = pose.copy()
        there[:3, :3] = pose[:3, :3] @ around
        there[:3, 3] = pose[:3, 3] - pose[:3, 0] * STEP_M * frame
        cameras.append(replace(start, pose=tuple(tuple(map(float, row)) for row in there)))
    return cameras


def clip(folder: Path, room: int) -> tuple[Tensor, Tensor]:
    """Frames (N, 3, H, W) in [0, 1], and their depth (N, H, W) in metres, 0 where unknown."""
    from diffusion_perception.trainer.perceiver import read_upright

    pictures = sorted((folder / "images").glob(f"{room:02}_*.png"))
    depths = [np.load(folder / "depth" / f"{path.stem}.npy") for path in pictures]
    return torch.cat([read_upright(path) for path in pictures]), torch.from_numpy(np.stack(depths))


def aligned(values: np.ndarray, truth: np.ndarray, known: np.ndarray) -> np.ndarray:
    """By the scale and shift that numpy's least squares finds over all known pixels."""
    matrix = np.stack([values[known], np.ones(known.sum())], 1)
    (scale, shift), *_ = np.linalg.lstsq(matrix, truth[known], rcond=None)
    return np.maximum(values * scale + shift, 1e-3)


def measured(values: Tensor, depths: Tensor) -> dict[str, float]:
    """Of depths (N, H, W) beside the truth."""
    seen, truth = values.double().numpy(), depths.double().numpy()
    known = truth > 0
    over_clip = aligned(seen, truth, known)
    each = np.stack([aligned(*frame) for frame in zip(seen, truth, known)])
    both = known[1:] & known[:-1]
    beyond = np.abs(np.diff(over_clip, axis=0) - np.diff(truth, axis=0))[both]
    return {
        "flicker": float(beyond.mean() / truth[known].std()),
        "abs-rel": float((np.abs(over_clip - truth)[known] / truth[known]).mean()),
        "abs-rel each": float((np.abs(each - truth)[known] / truth[known]).mean()),
    }


def ways(perceiver: Any, frames: Tensor) -> dict[str, Tensor]:
    """{way: depths (N, H, W)}"""
    from diffusion_perception.core.display.steady import steadied
    from diffusion_perception.core.pipeline import predict
    from diffusion_perception.core.video import blending

    found = {}
    for share in (0.0, 0.5, 0.8):
        with torch.inference_mode():
            map = predict(blending(perceiver, share) if share else perceiver, frames)
        name = f"blend {share:g}" if share else "frame by frame"
        found[name] = map.values[..., 0]
        found[f"{name}, steady"] = steadied(map)[0].values[..., 0]
    return found


def _shaken(frames: Tensor) -> Tensor:
    """With an exposure that changes from frame to frame by 8 %, and 3 % of noise."""
    draw = torch.Generator().manual_seed(0)
    exposure = 1 + 0.08 * torch.randn(len(frames), 1, 1, 1, generator=draw)
    return (frames * exposure + 0.03 * torch.randn(frames.shape, generator=draw)).clamp(0, 1)


LOOKS: dict[str, Callable[[Tensor], Tensor]] = {"as rendered": lambda frames: frames, "shaken": _shaken}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("render", "measure"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rooms", type=int, default=2)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--size", type=int, nargs=2, default=[320, 240], metavar=("W", "H"))
    parser.add_argument("--samples", type=int, default=48)
    parser.add_argument("--seed", type=int, default=977)
    parser.add_argument("--model", type=Path, default=STARTER)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.verb == "render":
        size = (arguments.size[0], arguments.size[1])
        render(arguments.folder, arguments.rooms, arguments.frames, size, arguments.samples, arguments.seed)
        return
    from diffusion_perception import open_perceiver

    perceiver, found = open_perceiver(arguments.model, task="depth"), {}
    for room in range(arguments.rooms):
        frames, depths = clip(arguments.folder, room)
        for look, filmed in LOOKS.items():
            for way, values in ways(perceiver, filmed(frames)).items():
                found.setdefault(f"{look}, {way}", []).append(measured(values, depths))
    rows = {way: {key: float(np.mean([row[key] for row in rows])) for key in rows[0]} for way, rows in found.items()}
    for way, row in rows.items():
        print(f"{way:<36}", *(f"{key} {value:.4f}" for key, value in row.items()))
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
