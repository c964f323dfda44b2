"""Segmentation of rendered rooms as colours and as class scores, side by side: IoU on rooms that no network has seen.

    diffusion-perception scenes --out rooms --rooms 160 --views 12
    python benchmarks/segmentation.py --data rooms --out segmentation

Twelve kinds of furniture, wall, floor, ceiling and person: the palette `furniture`; the rest of a room is no truth.
Everything is trained from nothing: a small VAE on pictures and on their colour maps (unless one is named), then every
variant below, all with UNets of one shape. Or, sooner, from a checkpoint:

    python benchmarks/segmentation.py --data rooms --out segmentation --base weights/starter.safetensors --size 128

Each is an ordinary run of `train` in a folder of its own, with its config.toml; a run that was stopped goes on, one
that is done is only measured. The table is printed, and its figures are in results.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from diffusion_perception.core.display.colour import PALETTES
from diffusion_perception.core.measure.metrics import METRICS
from diffusion_perception.core.pipeline import Perceiver, predict
from diffusion_perception.trainer.config import Config, Source, build, merged
from diffusion_perception.trainer.data.feeds import open_feeds
from diffusion_perception.trainer.data.measured import classes
from diffusion_perception.trainer.host import open_perceiver
from diffusion_perception.trainer.presets import PRESETS
from diffusion_perception.trainer.train import run

PALETTE = PALETTES["furniture"]
FILE = "last.safetensors"

COMMON: dict[str, Any] = {
    "tasks": ["segmentation"],
    "batch_size": 4,
    "seed": 1,
    "workers": 1,
    "validate_every": 0,
    "validation_images": 24,
    "save_every": 200,
    "cache_latents": True,
    "estimate": False,
    "augment": {"flip": 0.5},
    "recipe": {"palette": PALETTE.name, "timestep": 1},
    "objective": {"timesteps": "fixed"},
    "optimiser": {"schedule": "cosine", "warmup": 50, "final_ratio": 0.05, "max_norm": 1.0, "lr": 4e-4},
}

SCORES: dict[str, Any] = {
    "objective": {"loss": "pixel"},
    "network": {"head": "upernet", "head_width": 64},
    "optimiser": {"decoder_lr": 1e-3},
}

UNTRAINED: dict[str, Any] = {"base": {"widths": [64, 128, 192, 256], "layers": 1, "head_dim": 64, "context_dim": 64}}
"""19 million weights."""


COLOURS: dict[str, Any] = {"objective": {"loss": "pixel", "pixel_losses": {"segmentation": ["l1"]}}}
"""From a checkpoint: its VAE need not be one that brings a colour map there and back."""


def _variants(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What is compared: the settings of each, over COMMON, in the order in which they need each other."""
    if arguments.base:
        begun = {"base": {"path": str(arguments.base)}}
        colours = merged(begun, COLOURS)
    else:
        begun = colours = merged(UNTRAINED, {"base": {"vae": str(_small_vae(arguments))}})
    after = {"base": {"path": str(arguments.out / "colours" / FILE)}}
    return {"colours": colours, "scores": merged(begun, SCORES), "scores after colours": merged(after, SCORES)}


def trained(settings: Mapping[str, Any], out: Path) -> tuple[Config, float]:
    """Train, unless it is done; the config, and the seconds that this call took."""
    config = build(Config, merged(settings, {"out": str(out)}), "")
    start = time.perf_counter()
    if not (out / FILE).is_file():
        run(config)
    return config, time.perf_counter() - start


def _small_vae(arguments: argparse.Namespace) -> Path:
    """The VAE that was named, or one that learns the pictures and their colour maps."""
    if arguments.vae is not None:
        return arguments.vae
    out = arguments.out / "vae"
    if not (out / "vae").is_dir():
        kept = {name: COMMON[name] for name in ("tasks", "seed", "workers", "estimate", "validate_every", "recipe")}
        small = {**where(arguments), "steps": arguments.vae_steps, "size": [96, 96], "batch_size": 4, "out": str(out)}
        learnt = {"optimiser": {"lr": 1e-3, "warmup": 30}, "augment": {"least_crop": 0.35}, "validation_images": 24}
        run(build(Config, merged(PRESETS["vae"].settings, merged(merged(kept, small), learnt)), ""))
    return out / "vae"


def where(arguments: argparse.Namespace) -> dict[str, Any]:
    """What every run of these arguments has."""
    return {
        "size": [arguments.size, arguments.size],
        "precision": arguments.precision,
        "device": arguments.device,
        "data": [{"root": str(arguments.data / "train")}],
        "validation": [{"root": str(arguments.data / "val")}],
    }


@torch.inference_mode()
def measure(config: Config, data: Path, pictures: int) -> dict[str, Any]:
    """Metrics and seconds a picture of a run's file on pictures of a split, taken evenly from all of it."""
    (feed,), _ = open_feeds(replace(config, data=(Source(str(data)),), validation=()), "custom")
    perceiver: Perceiver = open_perceiver(Path(config.out) / FILE, device=config.device or "cpu")
    last = len(feed.records) - 1
    chosen = sorted({round(place) for place in np.linspace(0, last, pictures or last + 1).tolist()})
    parts, seconds = [], 0.0
    for index in tqdm(chosen, desc=Path(config.out).name, leave=False):
        sample = feed.records[index]
        start = time.perf_counter()
        seen = predict(perceiver, sample.image[None])
        seconds += time.perf_counter() - start
        found = classes(seen.values.movedim(-1, 1), sample, feed.supervision)
        assert found is not None
        parts.append(METRICS["miou"].measure(found.prediction, found.target, found.valid))
    matrix = sum(parts[1:], parts[0])
    table = matrix.total
    union = table.sum(0) + table.sum(1) - table.diagonal()
    return {
        **{METRICS[name].name: METRICS[name].value(matrix) for name in ("miou", "pixel-accuracy", "mean-accuracy")},
        "iou": {name: (table[i, i] / union[i]).item() for i, name in enumerate(PALETTE.classes) if union[i] > 0},
        "pictures": len(chosen),
        "seconds": seconds / len(chosen),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="what `scenes` wrote: train/, val/ and test/")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and of results.json")
    parser.add_argument("--vae", type=Path, help="a small VAE that is there already")
    parser.add_argument("--base", type=Path, help="a checkpoint that the variants start from, VAE and all")
    parser.add_argument("--steps", type=int, default=300, help="of every variant")
    parser.add_argument("--vae-steps", type=int, default=400)
    parser.add_argument("--size", type=int, default=192, help="pixels along the edge of what networks are shown")
    parser.add_argument("--pictures", type=int, default=100, help="of test/ that are measured; 0 is all")
    parser.add_argument("--only", action="append", help="a variant; all if left out")
    parser.add_argument("--precision", choices=("no", "bf16", "fp16"), default="bf16")
    parser.add_argument("--device", choices=("", "cpu", "cuda", "mps"), default="")
    arguments = parser.parse_args()
    file = arguments.out / "results.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    for name, settings in _variants(arguments).items():
        if arguments.only and name not in arguments.only:
            continue
        settings = merged(merged(COMMON, settings), {**where(arguments), "steps": arguments.steps})
        config, seconds = trained(settings, arguments.out / name.replace(" ", "-"))
        measured = measure(config, arguments.data / "test", arguments.pictures)
        seconds += results.get(name, {}).get("training seconds", 0)
        results[name] = {**measured, "steps": config.steps, "training seconds": seconds}
        file.write_text(json.dumps(results, indent=1))
    print(_table_of(results))


def _table_of(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a row a variant, then a row a class."""
    names = list(results)
    rows = [["", *names], ["---", *("---:" for _ in names)]]
    for metric in ("miou", "pixel-accuracy", "mean-accuracy"):
        rows.append([METRICS[metric].title, *(f"{results[name][metric]:.3f}" for name in names)])
    for label in PALETTE.classes:
        found = (results[name]["iou"].get(label) for name in names)
        rows.append([label, *("-" if iou is None else f"{iou:.3f}" for iou in found)])
    rows.append(["s a picture", *(f"{results[name]['seconds']:.3f}" for name in names)])
    rows.append(["training, s", *(f"{results[name]['training seconds']:.0f}" for name in names)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    main()
