"""`make example-pictures`: renders the pictures of workflows/pictures/ again, their credits, and a true mask.

    python tools/example_pictures.py [NAME ...]

It takes what `diffusion-perception scenes` takes, libLLVM 19 included; a minute or a few for each picture.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from diffusion_perception.scenes import assets
from diffusion_perception.scenes.plan import Plan
from diffusion_perception.scenes.renderers import RENDERERS
from diffusion_perception.scenes.rooms import plan_room
from diffusion_perception.scenes.shelf import open_shelf
from diffusion_perception.scenes.views import View, write_text

PACK = Path(__file__).absolute().parents[1]
FOLDER = PACK / "workflows" / "pictures"
TRUTH = PACK / "tests" / "data" / "person-in-a-room-mask.png"
SIZE = (768, 576)
SAMPLES = 48
SEED = 2026
"""The starter learnt from rooms of the seeds 7 and 11 alone: it saw none of these."""
VIEWS = 4
"""Of which one is the picture; how many there are decides where the cameras stand."""
QUALITY = 90


@dataclass(frozen=True)
class Example:
    """One picture: a view of a room."""

    room: int
    view: int

    @property
    def command(self) -> str:
        """What renders the same view, and the room's others."""
        size = "x".join(str(side) for side in SIZE)
        return (
            f"diffusion-perception scenes --out FOLDER --seed {SEED} --rooms 1 --first-room {self.room} "
            f"--views {VIEWS} --size {size} --samples {SAMPLES} --split test"
        )


EXAMPLES = {
    "living-room": Example(room=5, view=0),
    "bedroom": Example(room=18, view=1),
    "person-in-a-room": Example(room=19, view=1),
}


def render(example: Example) -> View:
    """The view, with its truth."""
    plan = Plan(
        kind="rooms", count=1, out=Path(), views=VIEWS, size=SIZE, seed=SEED, first_room=example.room, split="test",
        renderer="mitsuba", samples=SAMPLES, bodies=0, depth_format="png", workers=1, blender_python=None,
    )  # fmt: skip
    room = plan_room(example.room, SEED, open_shelf().pieces, VIEWS)
    ((_, view),) = RENDERERS["mitsuba"].render(plan, room, example.room, [example.view])
    return view


def save(name: str, view: View) -> None:
    Image.fromarray(view.image).save(FOLDER / f"{name}.jpg", quality=QUALITY, optimize=True)
    if TRUTH.stem.startswith(name) and view.matte is not None:
        Image.fromarray((view.matte > 0.5).astype(np.uint8) * 255).convert("1").save(TRUTH, optimize=True)


def _credits() -> str:
    """Where the pictures come from and what may be done with them: workflows/pictures/README.md."""
    shelf, shown = open_shelf(), set()
    for example in EXAMPLES.values():
        shown |= {placement.model for placement in plan_room(example.room, SEED, shelf.pieces, VIEWS).placements}
    rows = [f"| `{name}.jpg` | `{row.command}` | {row.view:02d} |" for name, row in EXAMPLES.items()]
    works = assets.credits([shelf.items[model] for model in sorted(shown)]).replace("# ", "## ").strip()
    return "\n".join([ABOUT, *rows, "", works, ""])


ABOUT = """# The example pictures

Rendered by this project, neither photographed nor generated: furnished rooms, planned by lot, with light traced through
them. The starter learnt from none of these rooms. What is ours in the pictures is given away (CC0); the furniture and
the people in them are other people's work, named below, most of it CC-BY: name them where you publish a picture.

`make example-pictures` renders them again. So does `diffusion-perception scenes`, with the room's other views and the
truth about every pixel:

| picture | command | view |
|---|---|---|"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(EXAMPLES)}; all if none is named")
    names = parser.parse_args().names or list(EXAMPLES)
    if unknown := [name for name in names if name not in EXAMPLES]:
        parser.error(f"There is no picture {unknown[0]!r}: choose of {', '.join(EXAMPLES)}.")
    assets.fetch(assets.cache_folder())
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in names:
        save(name, render(EXAMPLES[name]))
        print(FOLDER / f"{name}.jpg")
    write_text(FOLDER / "README.md", _credits())
    return 0


if __name__ == "__main__":
    sys.exit(main())
