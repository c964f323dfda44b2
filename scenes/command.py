"""The command `scenes`: renders furnished rooms with people, near shots of single things, and the exact truth of both.

It writes `<out>/train`, `<out>/val` and `<out>/test`, each a plain dataset folder as described in `views`: the same
that a dataset of your own would have. Views of rooms are named `<room>_<view>`, those of shots `shot<number>_<view>`.
Rooms and shots, never views, are shared out between the splits: of every twenty, one goes to val and one to test. What
shots of val and of test show is in no other split's shots, and what they are of is in no room of train. The same seed
gives the same files on the same machine, whole views that are already there are left alone, and a run that was killed
goes on where it stopped. Credits for the models are written beside the splits.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import multiprocessing
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..core.plain_files import read_json
from . import assets
from .plan import KINDS, Plan, parse_size
from .renderers import RENDERERS
from .shelf import open_shelf
from .verify import verify
from .views import SPLITS, dataset_toml, write_text, write_view


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("--out", type=Path, required=True, help="folder that gets train/, val/ and test/")
    parser.add_argument("--rooms", type=int, default=100, help="how many rooms; 0 for shots alone")
    parser.add_argument(
        "--shots",
        type=int,
        default=0,
        metavar="N",
        help="how many near shots of one to three people, animals, plants, vehicles or things",
    )
    parser.add_argument("--views", type=int, default=12, help="pictures of each room or shot")
    parser.add_argument("--size", default="256", metavar="N | WxH", help="pixels of a picture")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same scenes")
    parser.add_argument("--first-room", type=int, default=0, metavar="N", help="number of the first room and shot")
    parser.add_argument("--split", choices=("auto", *SPLITS), default="auto", help="put everything into one split")
    parser.add_argument(
        "--renderer",
        choices=tuple(RENDERERS),
        default="mitsuba",
        help="; ".join(f"{name} {row.about}" for name, row in RENDERERS.items()),
    )
    samples = ", ".join(f"{row.samples} by {name}" for name, row in RENDERERS.items())
    parser.add_argument("--samples", type=int, default=0, help=f"light paths a pixel before denoising; 0: {samples}")
    parser.add_argument(
        "--bodies",
        type=int,
        default=0,
        metavar="N",
        help="how many parametric people with exact joints to draw from; needs anny",
    )
    parser.add_argument(
        "--depth-format", choices=("png", "npy"), default="png", help="16-bit millimetres, or float32 metres"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes; each renderer already uses every core")
    parser.add_argument(
        "--assets", type=Path, metavar="DIR", help="folder with the .deb and .tgz files, instead of downloads"
    )
    parser.add_argument("--blender-python", type=Path, metavar="FILE", help="interpreter that has bpy installed")
    parser.add_argument("--verify", action="store_true", help="render nothing; measure the truth of the views in --out")


def run(said: Mapping[str, Any]) -> None:
    """Render, or verify what was rendered. said: the flags' values."""
    if said["verify"]:
        report = verify(said["out"])
        sys.stdout.write(report.text())
        if report.faults():
            raise UserError(f"{said['out']}: {'; '.join(report.faults())}.")
        return
    plans = plans_of(said)
    RENDERERS[said["renderer"]].find(plans[0])  # before anything is downloaded
    cache = assets.cache_folder()
    assets.fetch(cache, said["assets"])
    for tarball in dict.fromkeys(tarball for plan in plans for tarball in KINDS[plan.kind].tarballs):
        assets.fetch_tarball(tarball, cache, said["assets"])
    if said["bodies"]:
        from .bodies import make_bodies

        make_bodies(cache, said["bodies"])
    _write_meanings(plans)
    for plan in plans:
        _render_all(plan)
    _write_credits(said["out"])


def plans_of(said: Mapping[str, Any]) -> list[Plan]:
    """What the flags ask for: rooms, shots or both. UserError for numbers that no plan can have."""
    values = {field.name: said[field.name] for field in dataclasses.fields(Plan) if field.name in said}
    values["size"] = parse_size(said["size"])
    values["samples"] = said["samples"] or RENDERERS[said["renderer"]].samples
    for name in ("views", "samples", "workers"):
        if values[name] < 1:
            raise UserError(f"--{name} is {values[name]}; it must be at least 1.")
    for name in (*KINDS, "seed", "first_room", "bodies"):
        if said[name] < 0:
            raise UserError(f"--{name.replace('_', '-')} is {said[name]}; it cannot be negative.")
    plans = [Plan(kind=kind, count=said[kind], **values) for kind in KINDS if said[kind]]
    if not plans:
        raise UserError(" and ".join(f"--{kind} is 0" for kind in KINDS) + "; one of them must be at least 1.")
    return plans


def _write_meanings(plans: list[Plan]) -> None:
    """A dataset.toml for every split that something is rendered for."""
    for split in SPLITS:
        mine = [plan for plan in plans if any(plan.split_of(number) == split for number in plan.numbers())]
        if mine:
            masked = tuple(dict.fromkeys(name for plan in mine for name in KINDS[plan.kind].masked))
            text = dataset_toml(f"scenes {split}", mine[0].depth_format, masked)
            write_text(mine[0].out / split / "dataset.toml", text)


def _write_credits(out: Path) -> None:
    """Who made what the views in the folder show, whichever run made the views."""
    shown: set[str] = set()
    for path in out.glob("*/camera/*.json"):
        shown.update(_works_in(path))
    items = open_shelf().items
    bodies, skies = (any(name.startswith(word) for name in shown) for word in ("body/", assets.SKIES.prefix))
    text = assets.credits([items[name] for name in sorted(shown & items.keys())], bodies, skies)
    write_text(out / "CREDITS.md", text)


def _works_in(path: Path) -> list[str]:
    """The models and the environment map that a view's camera file names. UserError if it is damaged."""
    try:
        notes = read_json(path)
    except UserError as error:
        raise UserError(f"{path} is damaged ({error}): remove it and render again.") from None
    models = notes.get("models", []) if isinstance(notes, dict) else None
    if not isinstance(models, list) or not all(isinstance(name, str) for name in models):
        raise UserError(f"{path} names no models: remove it and render again.")
    return [*models, str(notes["environment"])] if "environment" in notes else models


def _render_all(plan: Plan) -> None:
    from tqdm import tqdm

    open_rooms = [number for number in plan.numbers() if plan.missing(number)]
    total = plan.count * plan.views
    done = total - sum(len(plan.missing(number)) for number in open_rooms)
    with tqdm(total=total, initial=done, unit="view", desc=f"{plan.kind} ({plan.renderer})") as bar:
        for count in _progress(plan, open_rooms):
            bar.update(count)


def _progress(plan: Plan, numbers: list[int]) -> Iterator[int]:
    """Counts of views as they come."""
    if plan.workers == 1:
        for number in numbers:
            yield from _render_room(plan, number)
        return
    # spawned, because a forked process would share the renderer's threads
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(plan.workers, mp_context=context) as pool:
        futures = [pool.submit(_count_room, plan, number) for number in numbers]
        try:
            for future in concurrent.futures.as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _count_room(plan: Plan, number: int) -> int:
    return sum(_render_room(plan, number))


def _render_room(plan: Plan, number: int) -> Iterator[int]:
    """Write the views of one room or shot that are missing; yields how many were written, batch by batch."""
    room = plan.make(number)
    wanted = plan.missing(number)
    for k, view in RENDERERS[plan.renderer].render(plan, room, number, wanted):
        write_view(plan.folder(number), plan.stem(number, k), view, plan.depth_format)
        yield 1
