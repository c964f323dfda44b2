"""What the starter checkpoint is worth: rooms it never saw, two real stereo scenes, and photographs to look at.

    python benchmarks/measure_starter.py weights/starter.safetensors --rooms SCENES/test --shots SHOTS/test \\
        --stereo --photographs OUT --teacher isnet-medium.onnx

--rooms and --shots are folders that `diffusion-perception scenes --renderer blender` made. Depth is brought to each
picture's truth by a scale and a shift of depth, every picture alike. --teacher compares the mask with what a model sees
in twenty photographs; docs/label.md says how to get IS-Net and its TOML. What is looked at is fetched once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from photographs import Scene, photographs, stereo_scenes, subjects
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from diffusion_perception.core.checkpoints.checkpoint import open_all
from diffusion_perception.core.display.picture import ready
from diffusion_perception.core.measure.align import ALIGNMENTS
from diffusion_perception.core.measure.metrics import METRICS
from diffusion_perception.core.pipeline import Perceiver, predict
from diffusion_perception.trainer.config import Config, Source
from diffusion_perception.trainer.data.arrays import BrokenRecord
from diffusion_perception.trainer.data.augment import Augmentation
from diffusion_perception.trainer.data.batches import Feed
from diffusion_perception.trainer.data.feeds import feed
from diffusion_perception.trainer.data.published import open_dataset
from diffusion_perception.trainer.data.records import Sample
from diffusion_perception.trainer.evaluation.foreign import open_onnx
from diffusion_perception.trainer.host import load_perceiver
from diffusion_perception.trainer.perceiver import read_upright
from diffusion_perception.trainer.scoring import score

METRICS_OF = {
    "depth": ("abs-rel", "delta1"),
    "normal": ("mean-angle", "median-angle", "angle-11.25", "angle-30"),
    "mask": ("iou", "max-f", "mae"),
    "segmentation": ("miou", "pixel-accuracy"),
    "albedo": ("psnr", "mse"),
}


def rooms(perceiver: Perceiver, root: Path) -> dict[str, float]:
    """The task's metrics over a folder of rendered views."""
    task = perceiver.recipe.row.name
    records = open_dataset("folder", task, root=str(root))
    source = feed(Config(), perceiver.recipe, Source(str(root)), records, Augmentation())
    samples = tqdm(whole(source), desc=task, total=len(records), leave=False)
    return score(METRICS_OF[task], ((_look(perceiver, sample.image[None]), sample, source) for sample in samples))


def whole(source: Feed) -> Iterator[Sample]:
    """The records that can be read; the others are named."""
    for index in range(len(source.records)):
        try:
            yield source.records[index]
        except BrokenRecord as fault:
            print(fault, file=sys.stderr)


@torch.inference_mode()
def _look(perceiver: Perceiver, image: Tensor) -> Tensor:
    """(1, 3, H, W) in [0, 1] -> raw values (1, C, H, W)."""
    return predict(perceiver, image).values.movedim(-1, 1)


def _stereo(perceiver: Perceiver, scene: Scene) -> dict[str, float]:
    """AbsRel, beside that of two guesses that look at nothing: one depth everywhere, and the lower the nearer."""
    down = torch.linspace(1, 0, scene.depth.shape[-2])[:, None].expand_as(scene.depth)
    guesses = {"starter": _look(perceiver, scene.image), "constant": torch.zeros_like(scene.depth), "row": down}
    return {name: _abs_rel(guess, scene) for name, guess in guesses.items()}


def _agreement(perceiver: Perceiver, teacher: Path) -> dict[str, float]:
    """Mean IoU over photographs of the mask with the teacher's, both cut at a half, and that of each."""
    _, open_on, _ = open_onnx(teacher)
    look, found = open_on("cpu"), {}
    for path in subjects():
        image = read_upright(path)
        mine, other = _look(perceiver, image) > 0.5, look(image, 0) > 0.5
        found[path.stem] = float((mine & other).sum() / (mine | other).sum().clamp(min=1))
    return {"mean": sum(found.values()) / len(found), **found}


def _abs_rel(guess: Tensor, scene: Scene) -> float:
    aligned = ALIGNMENTS["least-square"](guess.contiguous(), scene.depth, scene.valid)
    row = METRICS["abs-rel"]
    return row.value(row.measure(aligned, scene.depth, scene.valid))


@torch.inference_mode()
def _sheet(perceivers: dict[str, Perceiver], image: Tensor, height: int = 256) -> Image.Image:
    """A picture and what each recipe makes of it, side by side."""
    pictures = [image[0].movedim(0, -1)] + [ready(predict(p, image))[0][0] for p in perceivers.values()]
    row = torch.cat([picture.clamp(0, 1) for picture in pictures], 1)
    sheet = Image.fromarray((row * 255).round().byte().numpy())
    return sheet.resize((sheet.width * height // sheet.height, height), Image.Resampling.LANCZOS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--rooms", type=Path, help="folder of rendered views")
    parser.add_argument("--shots", type=Path, help="folder of rendered shots, whose masks are of their subjects")
    parser.add_argument("--teacher", type=Path, help="an ONNX model of masks or mattes, with its TOML beside it")
    parser.add_argument("--stereo", action="store_true", help="two real scenes with true depth")
    parser.add_argument("--photographs", type=Path, metavar="OUT", help="draw ten photographs into this folder")
    arguments = parser.parse_args()
    perceivers = {row.recipe.id: load_perceiver(row) for row in open_all(arguments.checkpoint)}
    if arguments.rooms:
        for name, perceiver in perceivers.items():
            print(json.dumps({name: rooms(perceiver, arguments.rooms)}), flush=True)
    if arguments.shots:
        for name, perceiver in perceivers.items():
            print(json.dumps({f"shots {name}": rooms(perceiver, arguments.shots)}), flush=True)
    if arguments.teacher:
        print(json.dumps({"teacher": _agreement(perceivers["mask"], arguments.teacher)}), flush=True)
    if arguments.stereo:
        for scene in stereo_scenes():
            print(json.dumps({scene.name: _stereo(perceivers["depth"], scene)}), flush=True)
    if arguments.photographs:
        arguments.photographs.mkdir(parents=True, exist_ok=True)
        for path in photographs():
            _sheet(perceivers, read_upright(path)).save(arguments.photographs / f"{path.stem}.jpg", quality=90)
        print(arguments.photographs)


if __name__ == "__main__":
    main()
