"""Modelspec: the header fields by which other programs describe a model (Stability AI's model metadata standard)."""

from __future__ import annotations

from collections.abc import Sequence

from ..generations import GENERATIONS
from ..recipe import Recipe

REPOSITORY = "https://github.com/diffusion-perception/diffusion-perception"


def modelspec(
    recipes: Sequence[Recipe], base: str, *, title: str = "", adapter: bool = False, size: Sequence[int] | None = None
) -> dict[str, str]:
    """Fields for the header of a file with these recipes.

    base: as Recipe.base, of the network; title: the tasks' where it is empty; adapter: whether it is one, which runs
    beside another network; size: (height, width) in pixels of the training pictures, where it is known.
    """
    first = recipes[0]
    tasks = ", ".join(recipe.row.title for recipe in recipes)
    height, width = size or (first.resolution, first.resolution)
    architecture = GENERATIONS[base].modelspec if base in GENERATIONS else "stable-diffusion-custom"
    said = {
        "sai_model_spec": "1.0.1",
        "architecture": f"{architecture}/lora" if adapter else architecture,
        "implementation": REPOSITORY,
        "title": title or tasks,
        "description": f"Predicts {tasks} from a picture",
        "license": first.licence,
        "resolution": f"{width}x{height}" if width > 0 else "",
        "prediction_type": "v" if first.prediction_type == "v_prediction" else first.prediction_type,
        "tags": ", ".join(recipe.task for recipe in recipes),
    }
    return {f"modelspec.{name}": value for name, value in said.items() if value}
