"""`make starter`: the starter checkpoint, made again from nothing: scenes rendered, three stages trained, one file.

    python tools/starter.py --scenes DIR --out DIR [--factor 20] [--stage latent]

Every part goes on where it was stopped; what is finished is left alone. --factor trains that many times longer, for
machines with a GPU. Rooms, and shots in DIR/shots, are rendered with the `scenes` extra, anny and libLLVM, as scenes/
says; with --no-render only those that are there are learnt from.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffusion_perception.core.errors import UserError
from diffusion_perception.trainer import train
from diffusion_perception.trainer.config import Config, build, merged, parse_toml, place
from diffusion_perception.trainer.predict import device_named
from diffusion_perception.trainer.presets import PRESETS

WEIGHTS = Path(__file__).parents[1] / "weights"


@dataclass(frozen=True)
class Rendered:
    """One dataset: what `scenes` is told, and where it lies."""

    folder: str
    """Inside the folder of scenes."""
    flags: dict[str, int]
    weight: float = 1.0
    """How often it is drawn, relative to the others."""


SHARED = {"--size": 192, "--seed": 11, "--bodies": 200}
RENDERED = (
    Rendered(".", {"--rooms": 300, "--views": 6, **SHARED}),
    Rendered("shots", {"--rooms": 0, "--shots": 400, "--views": 2, **SHARED}),
)
"""Many rooms and shots, for it is variety that masks are short of, and few views of each."""


@dataclass(frozen=True)
class Stage:
    """One run of the trainer. Its config is weights/starter/<name>.toml."""

    name: str
    result: str
    """What it leaves in its folder for the next one."""
    begins: str = ""
    """The config's key for what the stage before left."""


STAGES = (
    Stage("vae", "vae"),
    Stage("latent", "last.safetensors", begins="base.vae"),
    Stage("pixel", "last.safetensors", begins="base.path"),
)


def config_of(stage: Stage, scenes: Path, out: Path, before: Path | None, factor: float) -> Config:
    """The stage's config on these scenes."""
    table: dict[str, Any] = parse_toml(WEIGHTS / "starter" / f"{stage.name}.toml")
    if "preset" in table:
        table = merged(PRESETS[table["preset"]].settings, table)
    table["out"] = str(out / stage.name)
    table["steps"] = round(table["steps"] * factor)
    if train.emulates_bf16(torch.device(device_named("")).type):
        table["precision"] = "no"
    table["data"] = _datasets(scenes, "train")
    table["validation"] = _datasets(scenes, "val")
    if before is not None:
        place(table, stage.begins, str(before))
    return build(Config, table, "")


def _datasets(scenes: Path, split: str) -> list[dict[str, Any]]:
    """Those that are there; the rooms in any case, so that it is said where they are looked for."""
    there = [row for row in RENDERED if (scenes / row.folder / split).is_dir()] or RENDERED[:1]
    return [{"root": str(scenes / row.folder / split), "weight": row.weight} for row in there]


def render(scenes: Path) -> None:
    """What is still missing of the rooms and of the shots."""
    command = [sys.executable, "-m", "diffusion_perception.trainer", "scenes"]
    for row in RENDERED:
        flags = {"--out": scenes / row.folder, **row.flags}
        done = subprocess.run([*command, *(str(part) for pair in flags.items() for part in pair)], check=False)
        if done.returncode:
            raise SystemExit(done.returncode)  # it has said why


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=Path, required=True, help="folder of rooms and shots, made if there is none")
    parser.add_argument("--out", type=Path, required=True, help="folder for the stages")
    parser.add_argument("--factor", type=float, default=1.0, help="times as many steps")
    parser.add_argument("--stage", default=STAGES[-1].name, choices=[stage.name for stage in STAGES], help="the last")
    parser.add_argument("--no-render", action="store_true", help="learn from the rooms and shots that are there")
    arguments = parser.parse_args()
    if not arguments.no_render:
        render(arguments.scenes)
    before = None
    for stage in STAGES:
        result = arguments.out / stage.name / stage.result
        if not result.exists():
            try:
                train.run(config_of(stage, arguments.scenes, arguments.out, before, arguments.factor))
            except UserError as fault:
                raise SystemExit(f"error: {fault}") from fault
        before = result
        if stage.name == arguments.stage:
            break
    print(before)


if __name__ == "__main__":
    main()
