"""Contenders: what is measured. Checkpoints, adapters on a base, others' models, and guesses that look at nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.checkpoints.adapter_file import is_adapter
from ...core.checkpoints.describe import describe_recipe
from ...core.crops import Box
from ...core.errors import UserError
from ...core.pipeline import Perceiver, predict
from ...core.pose import people_of, predict_people
from ...core.recipe import Recipe
from ...core.tasks import task_named
from ..data.records import read_image, stamp
from ..host import load_chosen
from ..keypoint_ap import as_result
from ..model_choice import ModelChoice
from ..outputs import files_of
from .baselines import BASELINES
from .foreign import FOREIGN

Predictor = Callable[[Tensor, int], Tensor]
"""(image (1, 3, H, W) in [0, 1], processing resolution as core.pipeline.predict has it) -> raw values (1, C, H, W)."""


@dataclass(frozen=True)
class OfCheckpoint:
    """A checkpoint as a Predictor."""

    perceiver: Perceiver
    device: str

    @torch.inference_mode()
    def __call__(self, image: Tensor, resolution: int) -> Tensor:
        return predict(self.perceiver, image.to(self.device), resolution=resolution).values.movedim(-1, 1)

    @torch.inference_mode()
    def pose(self, path: Path, box: Box) -> dict[str, Any] | None:
        """Of the person in a box of a picture, `keypoints` and `score` as in COCO's results; None if nobody is seen."""
        picture, _ = read_image(path)
        seen = predict_people(self.perceiver, picture[None].to(self.device), [[box]])
        (people,) = people_of(seen)
        return {name: as_result(people[0], 0, 1)[name] for name in ("keypoints", "score")} if people else None


@dataclass(frozen=True)
class Contender:
    """One recipe of one model."""

    name: str
    """As it was asked for."""
    recipe: Recipe
    """What its values mean."""
    open: Callable[[str], Predictor]
    """Of the device; reads the weights."""
    identity: tuple[Any, ...] = ()
    """What its predictions depend on besides the recipe."""
    card: dict[str, str] = field(default_factory=dict)
    """What a person may want to know of it."""
    guessed: bool = False
    """Whether it is a baseline."""

    @property
    def title(self) -> str:
        """Its name, and its recipe's where the task does not say which."""
        return self.name if self.recipe.id == self.recipe.task else f"{self.name} ({self.recipe.id})"


@dataclass(frozen=True)
class Asked:
    """What is said of all models."""

    tasks: Sequence[str] = ()
    """Rows of core.tasks.TASKS; all if there are none."""
    base: Path | None = None
    """What adapters sit on."""
    family: str = "auto"
    overrides: Sequence[str] = ()
    context: str = ""
    negative_context: str = ""

    def wants(self, recipe: Recipe) -> bool:
        return not self.tasks or recipe.task in {task_named(task).name for task in self.tasks}


def contenders_of(texts: Iterable[str], asked: Asked) -> list[Contender]:
    """All that are asked for; of baselines the tasks that something else predicts too, if there is anything else."""
    found = [each for text in dict.fromkeys(texts) for each in contenders_named(text, asked)]
    tasks = {each.recipe.task for each in found if not each.guessed}
    return [each for each in found if not each.guessed or not tasks or each.recipe.task in tasks]


def contenders_named(text: str, asked: Asked) -> list[Contender]:
    """All recipes of a model, or of a baseline, that are asked for. UserError if it has none of them."""
    path = Path(text)
    if text in BASELINES and not path.exists():
        found = list(baseline(text))
    else:
        opener = next((row.open for row in FOREIGN if row.recognises(path)), None)
        found = list(own(text, asked)) if opener is None else [_of_others(text, path, *opener(path))]
    wanted = [contender for contender in found if asked.wants(contender.recipe)]
    if not wanted:
        known = ", ".join(contender.recipe.task for contender in found)
        raise UserError(f"{text} predicts {known}, not {' or '.join(asked.tasks)}: take --task of these.")
    return wanted


def baseline(name: str) -> Iterator[Contender]:
    """For every task that it has a guess for."""
    row = BASELINES[name]
    for task in row.guesses:
        yield Contender(
            name,
            Recipe(task),
            lambda device, task=task: lambda image, resolution: row(task, *image.shape[-2:]),
            (name,),
            {"what it is": f"a guess that looks at nothing: {row.title}"},
            guessed=True,
        )


def _of_others(text: str, path: Path, recipe: Recipe, opened: Callable[[str], Predictor], about: str) -> Contender:
    """Another project's model."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    identity = tuple((file.name, stamp(file)) for file in files if file.is_file())
    return Contender(text, recipe, opened, identity, {"what it is": about})


def own(text: str, asked: Asked) -> Iterator[Contender]:
    """A checkpoint's recipes, or an adapter's on its base."""
    path = Path(text)
    if not path.exists():
        raise UserError(f"There is no model {text}: give a file, a folder, or one of {', '.join(BASELINES)}.")
    adapted = asked.base is not None and is_adapter(path)
    sources = {"adapter": path, "base": asked.base} if adapted else {"model": path}
    for task in _tasks_in(path, asked) if not adapted else (asked.tasks or ("",)):
        named = {name: getattr(asked, name) for name in ("family", "overrides", "context", "negative_context")}
        yield opened(text, ModelChoice(**sources, **named, task=task))


def _tasks_in(path: Path, asked: Asked) -> Iterable[str]:
    """The ids of the recipes in a file of several; else what is asked for."""
    every = ModelChoice(model=path, family=asked.family).open_every()
    return [checkpoint.recipe.id for checkpoint in every] if len(every) > 1 else (asked.tasks or ("",))


def opened(text: str, choice: ModelChoice) -> Contender:
    """A choice whose weights are read once they are needed."""
    checkpoint, adapter = choice.open()

    def on(device: str) -> Predictor:
        return OfCheckpoint(load_chosen(choice, checkpoint, adapter, device), device)

    stamps = tuple((file.name, stamp(file)) for file in files_of(choice))
    return Contender(text, checkpoint.recipe, on, stamps, _card_of(describe_recipe(checkpoint)))


SHOWN = ("family", "licence", "commercial use", "parameters", "context", "latents")


def _card_of(told: dict[str, Any]) -> dict[str, str]:
    """What `info` says, but for the architecture; of the recipe, what is not as usual."""
    plain = {key: str(told[key]) for key in SHOWN if told.get(key)}
    usual = asdict(Recipe(told["recipe"]["task"]))
    recipe = {key: value for key, value in told["recipe"].items() if value != usual[key] or key == "resolution"}
    return {**plain, **{key: value if isinstance(value, str) else json.dumps(value) for key, value in recipe.items()}}
