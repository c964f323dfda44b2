"""What tiles do for pictures larger than a network sees: detail beside the truth, seams, and what 8192x4096 takes.

    diffusion-perception scenes --out FOLDER --rooms 3 --views 1 --size 1024x768 --split test --depth-format npy
    python benchmarks/large_pictures.py rooms FOLDER/test --out benchmarks/results/large-pictures.json
    python benchmarks/large_pictures.py memory --size 8192 4096              # minutes

For each picture, seen once and in tiles of several sizes: AbsRel after one scale and shift for the picture; AbsRel of
the pixels within 8 of an edge of the truth; the error of normals in degrees. Seams: the mean step between neighbouring
pixels where one tile ends, less the mean step everywhere, beside what neighbouring tiles differ by where they overlap;
both of the truth's deviation.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion_perception import open_perceiver
from diffusion_perception.core.display.picture import vectors_of
from diffusion_perception.core.geometry import CAMERA
from diffusion_perception.core.large_pictures import OVERLAP, predict_large
from diffusion_perception.core.pipeline import predict
from diffusion_perception.core.tiles import places
from diffusion_perception.trainer.perceiver import read_upright

ROOT = Path(__file__).absolute().parents[1]
STARTER = ROOT / "weights" / "starter.safetensors"
NEAR_EDGE = 8
"""Pixels."""


def _abs_rel(values: Tensor, truth: Tensor, where: Tensor) -> float:
    """After the scale and shift that numpy's least squares finds over all known pixels."""
    known = truth > 0
    seen, wanted = values[known].double().numpy(), truth[known].double().numpy()
    (scale, shift), *_ = np.linalg.lstsq(np.stack([seen, np.ones_like(seen)], 1), wanted, rcond=None)
    error = ((values.double() * scale + shift).clamp(min=1e-3) - truth).abs() / truth.clamp(min=1e-3)
    return error[known & where].mean().item()


def _near_edges(truth: Tensor) -> Tensor:
    """(H, W) bool: next to where depth jumps by a tenth."""
    low = -F.max_pool2d(-truth[None, None], 3, 1, 1)[0, 0]
    jumps = F.max_pool2d(truth[None, None], 3, 1, 1)[0, 0] > 1.1 * low.clamp(min=1e-3)
    return F.max_pool2d(jumps[None, None].float(), 2 * NEAR_EDGE + 1, 1, NEAR_EDGE)[0, 0] > 0


def _seam(values: Tensor, tile: int) -> float:
    """The mean step across the lines on which tiles end, less the mean step everywhere. values: (H, W)."""
    where = places((values.shape[0], values.shape[1]), tile, tile // OVERLAP)
    down, across = values.diff(dim=0).abs(), values.diff(dim=1).abs()
    rows = {edge for place in where for edge in (place.top, place.top + place.high) if 0 < edge < len(values)}
    columns = {edge for place in where for edge in (place.left, place.left + place.wide) if 0 < edge < values.shape[1]}
    steps = [*(down[row - 1].mean() for row in rows), *(across[:, column - 1].mean() for column in columns)]
    return (torch.stack(steps).mean() - torch.cat([down.flatten(), across.flatten()]).mean()).item()


def _unlike(perceiver: Any, picture: Tensor, tile: int) -> float:
    """The mean difference of neighbouring tiles where they overlap, each seen alone."""
    seen = {
        (place.top, place.left): (place, predict(perceiver, picture[place.pixels()]).values[0, ..., 0])
        for place in places((picture.shape[-2], picture.shape[-1]), tile, tile // OVERLAP)
    }
    differences = []
    for place, values in seen.values():
        for other, others in seen.values():
            shared = place.left + place.wide - other.left
            if other.top == place.top and place.left < other.left and shared > 0:
                differences.append((values[:, -shared:] - others[:, :shared]).abs().mean())
    return torch.stack(differences).mean().item()


def rooms(folder: Path, model: Path, tiles: list[int]) -> dict[str, dict[str, float]]:
    """{way: figures, the mean over the folder's pictures}"""
    depth, normal = (open_perceiver(model, task=task) for task in ("depth", "normal"))
    found: dict[str, list[dict[str, float]]] = {}
    for path in sorted((folder / "images").glob("*.png")):
        picture = read_upright(path)
        truth = torch.from_numpy(np.load(folder / "depth" / f"{path.stem}.npy")).float()
        normals = read_upright(folder / "normal" / path.name)[0].movedim(0, -1) * 2 - 1
        edges = _near_edges(truth)
        for tile in (0, *tiles):
            seen = [predict_large(p, picture, tile) if tile else predict(p, picture) for p in (depth, normal)]
            values, spread = seen[0].values[0, ..., 0], seen[0].values.std().item()
            row = {
                "abs-rel": _abs_rel(values, truth, torch.ones_like(edges)),
                "abs-rel near edges": _abs_rel(values, truth, edges),
                "degrees": _degrees(vectors_of(seen[1], CAMERA)[0], normals),
            }
            if tile:
                row |= {"seams": _seam(values, tile) / spread, "unlike": _unlike(depth, picture, tile) / spread}
            found.setdefault(f"tiles of {tile}" if tile else "at once", []).append(row)
            print(path.stem, tile, {key: round(value, 4) for key, value in row.items()}, flush=True)
    return {way: {key: float(np.mean([row[key] for row in rows])) for key in rows[0]} for way, rows in found.items()}


def _degrees(seen: Tensor, truth: Tensor) -> float:
    """The mean angle between unit vectors (H, W, 3), right, up, back; where the truth is known."""
    known = truth.norm(dim=-1) > 0.5
    cosine = F.cosine_similarity(seen[known], truth[known], dim=-1)
    return torch.rad2deg(cosine.clamp(-1, 1).acos()).mean().item()


def memory(model: Path, size: tuple[int, int], tile: int) -> dict[str, float]:
    """GiB at most, and seconds."""
    perceiver = open_perceiver(model, task="depth")
    picture = F.interpolate(torch.rand(1, 3, 64, 128), (size[1], size[0]), mode="bilinear")
    begun = time.perf_counter()
    predict_large(perceiver, picture, tile)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"GiB": peak, "seconds": time.perf_counter() - begun}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("rooms", "memory"))
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--model", type=Path, default=STARTER)
    parser.add_argument("--tiles", type=int, nargs="+", default=[512, 256])
    parser.add_argument("--size", type=int, nargs=2, default=[8192, 4096], metavar=("W", "H"))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with torch.inference_mode():
        if arguments.verb == "memory":
            found: Any = memory(arguments.model, (arguments.size[0], arguments.size[1]), arguments.tiles[0])
        else:
            found = rooms(arguments.folder, arguments.model, arguments.tiles)
    print(json.dumps(found, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
