"""Labels: every picture seen by every teacher, as files of a plain folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ...core.errors import UserError
from ...core.perception_map import Convention
from ...core.whole_file import whole_file, write_whole
from ..data.records import read_image
from ..evaluation.contenders import Asked, Contender, contenders_named
from .plan import Teacher
from .poses import poses_in
from .written import Section, save_array, written_as

Label = Callable[[str, Path, Path], None]
"""(name of a picture, the picture, the file to write)."""


@dataclass(frozen=True)
class Labeller:
    """A teacher, ready to be asked."""

    teacher: Teacher
    folder: str
    """In the plain folder."""
    ending: str
    section: Section
    """What dataset.toml says of it."""
    open: Callable[[str], Label]
    """Of the device; reads the weights."""

    def file(self, root: Path, stem: str) -> Path:
        return root / self.folder / f"{stem}{self.ending}"


def labeller_of(teacher: Teacher) -> Labeller:
    """UserError for a teacher that cannot be opened, or whose labels have no place in a plain folder."""
    return _of_poses(teacher) if teacher.poses else _of_model(teacher)


def contender_of(teacher: Teacher) -> Contender:
    """UserError unless the model has one recipe of the task."""
    base = Path(teacher.base) if teacher.base else None
    tasks = (teacher.task,) if teacher.task else ()
    found = contenders_named(teacher.model, Asked(tasks=tasks, base=base, overrides=teacher.set))
    if len(found) > 1:
        known = ", ".join(contender.recipe.task for contender in found)
        raise UserError(f"{teacher.model} predicts {known}: say which as the teacher's task.")
    return found[0]


def _of_model(teacher: Teacher) -> Labeller:
    contender = contender_of(teacher)
    convention, row = contender.recipe.convention(), written_as(contender.recipe)

    def on(device: str) -> Label:
        look = contender.open(device)

        def label(stem: str, picture: Path, out: Path) -> None:
            values = look(read_image(picture)[0][None], teacher.resolution)
            if not values.isfinite().all():
                raise UserError(f"{picture}: {teacher.model} gives values that are no numbers.")
            save_array(row.array(values[0].movedim(0, -1).cpu(), convention), out)

        return label

    return Labeller(
        teacher, contender.recipe.task, row.ending, _described_section(row.section, convention, teacher), on
    )


def _described_section(said: Callable[[Convention], Section], convention: Convention, teacher: Teacher) -> Section:
    """UserError names the teacher whose values cannot be told."""
    try:
        return said(convention)
    except UserError as error:
        raise UserError(f"{teacher.model}: {error}") from None


def _of_poses(teacher: Teacher) -> Labeller:
    found = poses_in(Path(teacher.poses), teacher.sure)

    def label(stem: str, picture: Path, out: Path) -> None:
        if Path(stem).name not in found:
            raise UserError(f"{picture}: {teacher.poses} says nothing of it.")
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, json.dumps(found[Path(stem).name]).encode())

    return Labeller(teacher, "keypoints", ".json", {}, lambda device: label)


LEFT_OUT = "label/left-out"
"""Inside the plain folder: what two teachers disagree about."""


@dataclass(frozen=True)
class Shelf:
    """Where a plain folder keeps a picture and its labels."""

    root: Path
    labellers: Sequence[Labeller]

    def files(self, stem: str, picture: Path) -> Iterator[Path]:
        """Of a record, inside the root."""
        yield Path("images") / f"{stem}{picture.suffix}"
        yield from (labeller.file(Path(), stem) for labeller in self.labellers)

    def has(self, file: Path) -> bool:
        """Whether it is there, or was left out."""
        return (self.root / file).exists() or (self.root / LEFT_OUT / file).exists()

    def leave_out(self, stem: str, picture: Path) -> None:
        """Moves what is there of a record."""
        for file in self.files(stem, picture):
            if (self.root / file).exists():
                (self.root / LEFT_OUT / file).parent.mkdir(parents=True, exist_ok=True)
                (self.root / file).replace(self.root / LEFT_OUT / file)


def label_all(shelf: Shelf, pictures: dict[str, Path], device: str) -> dict[str, str]:
    """Write the labels that are not there, teacher by teacher, and take in the pictures that have all of theirs.

    -> {name of a picture: why it has none}.
    """
    faults: dict[str, str] = {}
    for labeller in shelf.labellers:
        left = [stem for stem in pictures if not shelf.has(labeller.file(Path(), stem)) and stem not in faults]
        label: Label | None = None
        for stem in tqdm(left, desc=labeller.folder, disable=None, leave=False):
            label = label or labeller.open(device)
            try:
                label(stem, pictures[stem], labeller.file(shelf.root, stem))
            except UserError as error:
                faults[stem] = str(error)
    for stem, picture in pictures.items():
        if stem not in faults:
            _take_in(shelf, stem, picture)
    return faults


def _take_in(shelf: Shelf, stem: str, picture: Path) -> None:
    """A copy: the pictures are a person's own."""
    image, *_ = shelf.files(stem, picture)
    if not shelf.has(image):
        (shelf.root / image).parent.mkdir(parents=True, exist_ok=True)
        with whole_file(shelf.root / image) as partial:
            shutil.copyfile(picture, partial)
