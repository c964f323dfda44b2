"""The command `scenes`: renders furnished rooms with people, and the exact truth about every pixel.

It writes `<out>/train`, `<out>/val` and `<out>/test`, each a plain dataset folder as described in `views`: the same
that a dataset of your own would have. Views are named `<room>_<view>`. Rooms, never views, are shared out between the
splits: of every twenty rooms one goes to val and one to test. The same seed gives the same files on the same machine,
whole views that are already there are left alone, and a run that was killed goes on where it stopped. Credits for the
models are written beside the splits.
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
from .plan import Plan, parse_size, stem
from .renderers import RENDERERS
from .rooms import plan_room
from .shelf import open_shelf
from .verify import verify
from .views import SPLITS, dataset_toml, write_text, write_view


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("--out", type=Path, required=True, help="folder that gets train/, val/ and test/")
    parser.add_argument("--rooms", type=int, default=100, help="how many rooms")
    parser.add_argument("--views", type=int, default=12, help="pictures of each room")
    parser.add_argument("--size", default="256", metavar="N | WxH", help="pixels of a picture")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same scenes")
    parser.add_argument("--first-room", type=int, default=0, metavar="N", help="number of the first room")
    parser.add_argument("--split", choices=("auto", *SPLITS), default="auto", help="put every room into one split")
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
        "--assets", type=Path, metavar="DIR", help="folder with the .deb files, instead of apt-get download"
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
    plan = plan_of(said)
    RENDERERS[plan.renderer].find(plan)  # before anything is downloaded
    cache = assets.cache_folder()
    assets.fetch(cache, said["assets"])
    if plan.bodies:
        from .bodies import make_bodies

        make_bodies(cache, plan.bodies)
    for split in SPLITS:
        if any(plan.split_of(number) == split for number in plan.numbers()):
            write_text(plan.out / split / "dataset.toml", dataset_toml(f"scenes {split}", plan.depth_format))
    _render_all(plan)
    _write_credits(plan)


def plan_of(said: Mapping[str, Any]) -> Plan:
    """What the flags ask for. UserError for numbers that no plan can have."""
    values = {field.name: said[field.name] for field in dataclasses.fields(Plan)}
    values["size"] = parse_size(said["size"])
    values["samples"] = said["samples"] or RENDERERS[said["renderer"]].samples
    for name in ("rooms", "views", "samples", "workers"):
        if values[name] < 1:
            raise UserError(f"--{name} is {values[name]}; it must be at least 1.")
    for name in ("seed", "first_room", "bodies"):
        if values[name] < 0:
            raise UserError(f"--{name.replace('_', '-')} is {values[name]}; it cannot be negative.")
    return Plan(**values)


def _write_credits(plan: Plan) -> None:
    """Who made the models that the views in the folder show, whichever run made the views."""
    shown: set[str] = set()
    for path in plan.out.glob("*/camera/*.json"):
        shown.update(_models_in(path))
    items = open_shelf().items
    bodies = any(name.startswith("body/") for name in shown)
    text = assets.credits([items[name] for name in sorted(shown & items.keys())], bodies)
    write_text(plan.out / "CREDITS.md", text)


def _models_in(path: Path) -> list[str]:
    """Those that a view's camera file names. UserError if it is damaged."""
    try:
        notes = read_json(path)
    except UserError as error:
        raise UserError(f"{path} is damaged ({error}): remove it and render again.") from None
    models = notes.get("models", []) if isinstance(notes, dict) else None
    if not isinstance(models, list) or not all(isinstance(name, str) for name in models):
        raise UserError(f"{path} names no models: remove it and render again.")
    return models


def _render_all(plan: Plan) -> None:
    from tqdm import tqdm

    open_rooms = [number for number in plan.numbers() if plan.missing(number)]
    total = plan.rooms * plan.views
    done = total - sum(len(plan.missing(number)) for number in open_rooms)
    with tqdm(total=total, initial=done, unit="view", desc=f"scenes ({plan.renderer})") as bar:
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
    """Write the views of one room that are missing; yields how many were written, batch by batch."""
    room = plan_room(number, plan.seed, open_shelf().pieces, plan.views, plan.bodies)
    wanted = plan.missing(number)
    for k, view in RENDERERS[plan.renderer].render(plan, room, number, wanted):
        write_view(plan.folder(number), stem(number, k), view, plan.depth_format)
        yield 1
