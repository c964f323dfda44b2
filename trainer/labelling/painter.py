"""Painter: Stable Diffusion makes a picture of each prompt, with a seed that is recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from tqdm import tqdm

from ...core.errors import UserError
from ...core.plain_files import read_json
from ...core.whole_file import whole_file
from .journal import Journal
from .plan import Pictures
from .prompts import dtype_on

Paint = Callable[[str, int], "Painted"]
"""(prompt, seed) -> a picture."""


class Painted(NamedTuple):
    picture: Image.Image
    hidden: bool
    """Whether the checkpoint's own safety checker has blackened it."""


@dataclass(frozen=True)
class Order:
    """A picture that is to be made."""

    stem: str
    prompt: str
    seed: int


def orders(prompts: Sequence[str], wanted: Pictures) -> Iterator[Order]:
    """The same ones in every run."""
    for number, prompt in enumerate(prompt for prompt in prompts for _ in range(wanted.per_prompt)):
        yield Order(f"{number:06d}", prompt, wanted.seed + number)


def paint_all(ordered: Sequence[Order], wanted: Pictures, folder: Path, journal: Journal, device: str) -> None:
    """Those that the journal does not name, as <stem>.png; what a safety checker has blackened is named alone."""
    done = {row["picture"] for row in journal.rows()}
    paint: Paint | None = None
    folder.mkdir(parents=True, exist_ok=True)
    for order in tqdm([o for o in ordered if o.stem not in done], desc="pictures", disable=None, leave=False):
        paint = paint or _painter(wanted, device)
        picture, hidden = paint(order.prompt, order.seed)
        if not hidden:
            with whole_file(folder / f"{order.stem}.png") as partial:
                picture.save(partial, "PNG")
        journal.add({"picture": order.stem, "prompt": order.prompt, "seed": order.seed, "hidden": hidden})


def _painter(wanted: Pictures, device: str) -> Paint:
    """UserError for what diffusers cannot open."""
    pipe = _open_pipeline(wanted, dtype_on(device)).to(device)
    pipe.set_progress_bar_config(disable=True)

    def paint(prompt: str, seed: int) -> Painted:
        made = pipe(
            prompt, negative_prompt=wanted.negative or None, width=wanted.width, height=wanted.height,
            num_inference_steps=wanted.steps, guidance_scale=wanted.guidance,
            generator=torch.Generator("cpu").manual_seed(seed),
        )  # fmt: skip
        return Painted(made.images[0], any(getattr(made, "nsfw_content_detected", None) or ()))

    return paint


def _open_pipeline(wanted: Pictures, dtype: torch.dtype) -> Any:
    """diffusers' own pipeline."""
    import diffusers

    path = Path(wanted.model)
    try:
        if path.is_dir():
            return diffusers.DiffusionPipeline.from_pretrained(path, torch_dtype=dtype, local_files_only=True)
        kind = getattr(diffusers, _pipeline_in(wanted.layout))
        given = {"config": wanted.layout} if wanted.layout else {}
        return kind.from_single_file(str(path), torch_dtype=dtype, local_files_only=True, **given)
    except (OSError, ValueError, ImportError, AttributeError) as error:
        hint = "" if path.is_dir() or wanted.layout else " A single file also needs its tokenizer: say layout = ...."
        raise UserError(f"diffusers cannot open {path} ({error}).{hint}") from error


def _pipeline_in(layout: str) -> str:
    """The class that model_index.json names; that of SD 1 and 2 where there is none."""
    index = Path(layout) / "model_index.json"
    return str(read_json(index)["_class_name"]) if layout and index.is_file() else "StableDiffusionPipeline"
