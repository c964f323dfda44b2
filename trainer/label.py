"""`label`: prompts -> pictures -> what teachers see in them -> where two of them agree, as a plain folder to train on.

Every stage writes each result at once, so that the same command goes on after a stop and does nothing twice. Beside the
folder's images/ and truth, label/ holds what was asked for (plan.json, with SHA-256 of all models), the journals, the
pictures as they were painted, and left-out/ with what the teachers disagree about; provenance.jsonl has a line a
picture.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..core.plain_files import read_json
from ..core.whole_file import write_whole
from .config import toml_value
from .data.arrays import READERS
from .data.records import list_files
from .host import device_named
from .labelling.agreement import agree_all, metric_of
from .labelling.journal import Journal
from .labelling.labels import Shelf, contender_of, label_all, labeller_of
from .labelling.painter import orders, paint_all
from .labelling.plan import Plan, Teacher, read_plan
from .labelling.prompts import prompts_of
from .lock import hold, release

WORK = "label"
"""Inside the plain folder."""
MOST_NAMED = 20


@dataclass(frozen=True)
class Labelling:
    """What `label` is asked for."""

    plan: Path
    """The TOML file."""
    out: Path | None = None
    """In place of the file's."""
    device: str = ""


def make_labels(wanted: Labelling) -> int:
    """All stages. 1 if a picture has no label, else 0. UserError for what a person can mend."""
    plan, device = read_plan(wanted.plan, wanted.out), device_named(wanted.device)
    shelf = Shelf(plan.out, [labeller_of(teacher) for teacher in plan.teachers])
    _check_teachers(plan, shelf)
    (plan.out / WORK).mkdir(parents=True, exist_ok=True)
    hold(plan.out / WORK)
    try:
        _check_same(plan)
        return _labelled(plan, shelf, device)
    finally:
        release(plan.out / WORK)


def _labelled(plan: Plan, shelf: Shelf, device: str) -> int:
    """The stages, one after the other."""
    pictures = _plan_pictures(plan, device)
    write_whole(plan.out / "dataset.toml", description(plan, shelf).encode())
    faults = label_all(shelf, pictures, device)
    for number, agreement in enumerate(plan.agreements):
        agree_all(shelf, pictures, agreement, _journal_of(plan, f"agreement-{number}"), device)
    rows = list(provenance(plan, shelf, pictures, faults))
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_whole(plan.out / "provenance.jsonl", text.encode())
    return said(plan, rows, faults)


def _check_teachers(plan: Plan, shelf: Shelf) -> None:
    """UserError for two teachers of one task, and for a second opinion on what nobody says."""
    folders = [labeller.folder for labeller in shelf.labellers]
    for folder in folders:
        if folders.count(folder) > 1:
            raise UserError(f"Two teachers say {folder}: keep one, and make the other an [[agreement]].")
    for agreement in plan.agreements:
        metric_of(agreement)
        task = contender_of(agreement).recipe.task
        if task not in folders:
            raise UserError(f"{agreement.model} says {task}, of which there is no teacher: name one of {task} first.")


def _check_same(plan: Plan) -> None:
    """Write down what is asked for. UserError if the folder was begun with something else: labels would be mixed."""
    file = plan.out / WORK / "plan.json"
    # as it comes back of a file
    told = json.loads(json.dumps({**plan.table(), "sha256": dict(_model_hashes(plan))}))
    if not file.exists():
        write_whole(file, json.dumps(told, indent=1, ensure_ascii=False).encode())
        return
    before = read_json(file)
    changed = [key for key in told if told[key] != before.get(key)]
    if changed:
        raise UserError(
            f"{plan.out} was begun with other {' and '.join(changed)}: put these back to go on, or choose another out."
        )


def _model_hashes(plan: Plan) -> Iterator[tuple[str, str]]:
    """(file, SHA-256) of all models, prompts and poses."""
    rows: list[Teacher] = [*plan.teachers, *plan.agreements]
    named = [plan.prompts.file, plan.prompts.model, plan.pictures.model, *(row.source for row in rows)]
    for path in map(Path, dict.fromkeys([*named, *(row.base for row in rows)])):
        for file in sorted(path.rglob("*")) if path.is_dir() and path != Path() else [path]:
            if file.is_file():
                yield file.as_posix(), _file_digest(file)
                yield from ((str(beside), _file_digest(beside)) for beside in _teacher_tomls(file))


def _teacher_tomls(file: Path) -> list[Path]:
    """The TOML that says what an ONNX file predicts."""
    beside = file.with_suffix(".toml")
    return [beside] if file.suffix == ".onnx" and beside.is_file() else []


def _file_digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def _journal_of(plan: Plan, name: str) -> Journal:
    return Journal(plan.out / WORK / f"{name}.jsonl")


def _plan_pictures(plan: Plan, device: str) -> dict[str, Path]:
    """{name without its ending: where it lies}, those that are there or that are painted now. UserError if none are."""
    folder = Path(plan.pictures.folder) if plan.pictures.folder else plan.out / WORK / "pictures"
    if plan.pictures.model:
        prompts = prompts_of(plan.prompts, _journal_of(plan, "prompts"), device)
        ordered = list(orders(prompts, plan.pictures))
        paint_all(ordered, plan.pictures, folder, _journal_of(plan, "pictures"), device)
    found, faults = list_files(folder, READERS)
    for fault in faults:
        sys.stderr.write(f"diffusion-perception: left out: {fault.reason}\n")
    if not found:
        raise UserError(f"{folder} has no pictures: give a folder with some.")
    return {stem: folder.parent / path for stem, path in found.items()}


def description(plan: Plan, shelf: Shelf) -> str:
    """dataset.toml."""
    teachers = ", ".join(Path(teacher.source).name for teacher in plan.teachers)
    titles = {"name": plan.name or plan.out.name, "licence": plan.licence, "credits": f"labels by {teachers}"}
    lines = [f"{key} = {toml_value(value)}" for key, value in titles.items()]
    for labeller in shelf.labellers:
        if labeller.section:
            lines += ["", f"[{labeller.folder}]"]
            lines += [f"{key} = {toml_value(value)}" for key, value in labeller.section.items()]
    return "\n".join(lines) + "\n"


def provenance(plan: Plan, shelf: Shelf, pictures: dict[str, Path], faults: dict[str, str]) -> Iterator[dict[str, Any]]:
    """A row a picture: what it is, who said what of it, and whether it is kept."""
    painted = {row["picture"]: row for row in _journal_of(plan, "pictures").rows()}
    journals = [_journal_of(plan, f"agreement-{number}") for number in range(len(plan.agreements))]
    agreed = [{row["picture"]: row for row in journal.rows()} for journal in journals]
    for stem, picture in pictures.items():
        image, *labels = shelf.files(stem, picture)
        made = {key: painted[stem][key] for key in ("prompt", "seed")} if stem in painted else {"from": str(picture)}
        told = {label.as_posix(): labeller.teacher.source for label, labeller in zip(labels, shelf.labellers)}
        seconds = [rows[stem] | {"by": row.model} for rows, row in zip(agreed, plan.agreements) if stem in rows]
        yield {
            "image": image.as_posix(),
            **made,
            "labels": told,
            **({"agreement": [{k: v for k, v in row.items() if k != "picture"} for row in seconds]} if seconds else {}),
            "kept": (shelf.root / image).exists(),
            **({"fault": faults[stem]} if stem in faults else {}),
        }


def said(plan: Plan, rows: list[dict[str, Any]], faults: dict[str, str]) -> int:
    """How many there are, and what was not labelled. 1 if there is any."""
    kept = sum(row["kept"] for row in rows)
    apart = len(rows) - kept - len(faults)
    sys.stdout.write(f"{plan.out}: {kept} of {len(rows)} pictures, {apart} left out by agreement\n")
    for fault in [*faults.values()][:MOST_NAMED]:
        sys.stderr.write(f"diffusion-perception: not labelled: {fault}\n")
    if len(faults) > MOST_NAMED:
        sys.stderr.write(f"diffusion-perception: and {len(faults) - MOST_NAMED} more, which provenance.jsonl names\n")
    return int(bool(faults))
