"""Plan: what `label` is asked for, as its TOML file says it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...core.errors import UserError
from ...core.texts import read_text
from ..data.truth import check_truth_key, section_from

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]


@dataclass(frozen=True)
class Prompts:
    """[prompts]"""

    file: str = ""
    """A text file, a prompt a line; or"""
    model: str = ""
    """a folder of a language model, which is asked for them."""
    question: str = "Describe a photograph of {} in one sentence, with its colours, materials, light and style:"
    """What the model is asked; {} becomes each of the subjects."""
    subjects: tuple[str, ...] = ()
    count: int = 100
    """Prompts about each subject, before those that say the same are dropped."""
    at_once: int = 16
    temperature: float = 0.95
    least: int = 15
    most: int = 128
    """Tokens of an answer."""
    seed: int = 0


@dataclass(frozen=True)
class Pictures:
    """[pictures]"""

    folder: str = ""
    """Pictures that are there; or"""
    model: str = ""
    """Stable Diffusion, as a folder in diffusers layout or a single file, which paints a picture a prompt."""
    layout: str = ""
    """For a single file: a folder with the tokenizer and the configs of its pipeline, in diffusers layout."""
    width: int = 512
    height: int = 512
    steps: int = 50
    guidance: float = 7.5
    negative: str = ""
    per_prompt: int = 1
    seed: int = 0
    """Of the first picture; each one's is recorded."""


@dataclass(frozen=True)
class Teacher:
    """A [[teacher]]"""

    model: str = ""
    """As `evaluate` takes one: a checkpoint, an .onnx file, a folder of transformers'; or"""
    poses: str = ""
    """keypoints that another tool found: a COCO file, or a folder of OpenPose's files."""
    task: str = ""
    """Which of the model's tasks; its only one if left out."""
    base: str = ""
    """What an adapter sits on."""
    set: tuple[str, ...] = ()
    """FIELD=VALUE, of the recipe."""
    resolution: int = -1
    """-1 as trained, 0 the picture's, or pixels."""
    sure: float = 0.3
    """How sure OpenPose must be of a joint."""

    @property
    def source(self) -> str:
        return self.model or self.poses


@dataclass(frozen=True)
class Agreement(Teacher):
    """An [[agreement]]: a second teacher, and how well it must agree with what the first one said."""

    metric: str = ""
    """A row of trainer.labelling.agreement.MEASURES or of core.measure.metrics.METRICS."""
    limit: float = 0.0
    """The worst that is kept."""


@dataclass(frozen=True)
class Plan:
    """The whole file."""

    out: Path
    teachers: tuple[Teacher, ...]
    pictures: Pictures = Pictures()
    prompts: Prompts = Prompts()
    agreements: tuple[Agreement, ...] = ()
    name: str = ""
    licence: str = ""

    def table(self) -> dict[str, Any]:
        """Plain data, without where it is written to."""
        table = asdict(self)
        del table["out"]
        return table


SECTIONS = {"prompts": Prompts, "pictures": Pictures}
LISTS = {"teacher": Teacher, "agreement": Agreement}
TITLES = {"out": str, "name": str, "licence": str}


def read_plan(path: Path, out: Path | None) -> Plan:
    """UserError, in one sentence, for what the file says that means nothing, or leaves out. out: above the file's."""
    try:
        table = tomllib.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not TOML ({error}).") from None
    for key in table:
        check_truth_key(key, (*TITLES, *SECTIONS, *LISTS), str(path))
    where = str(path)
    sections = {name: _section_of(table, name, where) for name in SECTIONS}
    lists = {f"{name}s": tuple(_rows_of(table, name, where)) for name in LISTS}
    titles = {key: _title_of(table, key, where) for key in TITLES if key in table}
    place = out or Path(titles.pop("out", ""))
    titles.pop("out", None)
    plan = Plan(place, **lists, **sections, **titles)
    check(plan, path)
    return plan


def _title_of(table: Mapping[str, Any], key: str, where: str) -> Any:
    if not isinstance(table[key], TITLES[key]):
        raise UserError(f"{where}: {key} is {table[key]!r}: expected a text.")
    return table[key]


def _section_of(table: Mapping[str, Any], name: str, where: str) -> Any:
    row = table.get(name, {})
    if not isinstance(row, dict):
        raise UserError(f"{where}: {name} is {row!r}: expected a table [{name}].")
    return section_from(row, name, SECTIONS[name], where)


def _rows_of(table: Mapping[str, Any], name: str, where: str) -> list[Any]:
    """One [teacher] stands for a list of one."""
    rows = table.get(name, [])
    rows = [rows] if isinstance(rows, dict) else rows
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{where}: {name} is {rows!r}: expected tables [[{name}]].")
    return [section_from(row, name, LISTS[name], where) for row in rows]


def check(plan: Plan, path: Path) -> None:
    """UserError for what does not go together."""
    if plan.out == Path():
        raise UserError(f'{path} does not say where to: write out = "my-set", or give --out.')
    if bool(plan.pictures.folder) == bool(plan.pictures.model):
        raise UserError(f"{path}: [pictures] takes a folder of pictures, or a model that paints them: say one of them.")
    if plan.pictures.model and bool(plan.prompts.file) == bool(plan.prompts.model):
        raise UserError(f"{path}: [prompts] takes a file of prompts, or a model that writes them: say one of them.")
    if plan.prompts.model and not plan.prompts.subjects:
        raise UserError(f'{path}: a model that writes prompts needs subjects = ["bedroom", ...] in [prompts].')
    if not plan.teachers:
        raise UserError(f"{path} names no [[teacher]]: say model = ..., or poses = ..., of at least one.")
    if any(bool(teacher.model) == bool(teacher.poses) for teacher in (*plan.teachers, *plan.agreements)):
        raise UserError(f"{path}: a [[teacher]] is a model, or poses that another tool found: say one of them.")
    if any(row.poses or not row.metric for row in plan.agreements):
        raise UserError(f'{path}: an [[agreement]] needs a model, metric = "..." and limit = ....')
    if plan.pictures.folder and inside(Path(plan.pictures.folder), plan.out):
        raise UserError(f"{path}: the pictures lie inside {plan.out}, which is written to: choose another out.")


def inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())
