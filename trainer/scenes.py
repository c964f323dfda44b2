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
import functools
import json
import logging
import multiprocessing
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import assets
from .cameras import Camera, back_project, normals_from_depth
from .furniture import CLASSES, Piece, sort
from .rooms import Room, plan_room
from .views import SPLITS, View, dataset_toml, is_complete, to_linear, write_text, write_view

LOG = logging.getLogger(__name__)
RAYS_AT_ONCE = 1_600_000
"""Bounds the memory of one rendering pass to about 2 GB."""


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
        choices=("mitsuba", "blender"),
        default="mitsuba",
        help="mitsuba is fast; blender, a process of its own, adds hair and depth of field",
    )
    parser.add_argument(
        "--samples", type=int, default=0, help="light paths a pixel before denoising; 0 = 4, blender 16"
    )
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


def run(arguments: argparse.Namespace) -> None:
    """Render, or verify what was rendered."""
    if arguments.verify:
        report = verify(arguments.out)
        sys.stdout.write(report.text())
        if report.faults():
            raise ValueError(f"{arguments.out}: {'; '.join(report.faults())}.")
        return
    plan = Plan.of(arguments)
    _find_renderer(plan)  # before anything is downloaded
    cache = assets.cache_folder()
    assets.fetch(cache, arguments.assets)
    if plan.bodies:
        from .bodies import make_bodies

        make_bodies(cache, plan.bodies)
    for split in SPLITS:
        if any(plan.split_of(number) == split for number in plan.numbers()):
            write_text(plan.out / split / "dataset.toml", dataset_toml(f"scenes {split}", plan.depth_format))
    _render_all(plan)
    write_credits(plan)


@dataclass(frozen=True)
class Plan:
    """What to render; goes to the workers as it is."""

    out: Path
    rooms: int
    views: int
    size: tuple[int, int]
    """Width, height."""
    seed: int
    first_room: int
    split: str
    renderer: str
    samples: int
    bodies: int
    depth_format: str
    workers: int
    blender_python: Path | None

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Plan:
        values = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(cls)}
        values["size"] = parse_size(arguments.size)
        values["samples"] = arguments.samples or {"mitsuba": 4, "blender": 16}[arguments.renderer]
        for name in ("rooms", "views", "samples", "workers"):
            if values[name] < 1:
                raise ValueError(f"--{name} is {values[name]}; it must be at least 1.")
        for name in ("seed", "first_room", "bodies"):
            if values[name] < 0:
                raise ValueError(f"--{name.replace('_', '-')} is {values[name]}; it cannot be negative.")
        return cls(**values)

    def numbers(self) -> range:
        return range(self.first_room, self.first_room + self.rooms)

    def split_of(self, number: int) -> str:
        return split_of(number) if self.split == "auto" else self.split

    def folder(self, number: int) -> Path:
        return self.out / self.split_of(number)

    def missing(self, number: int) -> list[int]:
        """The views of a room that are yet to be made."""
        return [k for k in range(self.views) if not is_complete(self.folder(number), stem(number, k))]


def _find_renderer(plan: Plan) -> None:
    if plan.renderer == "mitsuba":
        from .mitsuba_render import load_mitsuba

        load_mitsuba()
    else:
        from .blender import find_python

        find_python(plan.blender_python)


def write_credits(plan: Plan) -> None:
    """Who made the models that the views in the folder show, whichever run made the views."""
    shown: set[str] = set()
    for path in plan.out.glob("*/camera/*.json"):
        shown.update(json.loads(path.read_text()).get("models", ()))
    items = _shelf().items
    bodies = any(name.startswith("body/") for name in shown)
    text = assets.credits([items[name] for name in sorted(shown & items.keys())], bodies)
    write_text(plan.out / "CREDITS.md", text)


def parse_size(text: str) -> tuple[int, int]:
    """`256` or `320x240` as width and height."""
    parts = text.lower().split("x")
    if not (1 <= len(parts) <= 2 and all(part.isdecimal() and 16 <= int(part) <= 4096 for part in parts)):
        raise ValueError(f"--size is {text!r}; give one number or WIDTHxHEIGHT, each from 16 to 4096.")
    return int(parts[0]), int(parts[-1])


def split_of(number: int) -> str:
    """Which split a room belongs to: fixed by its number alone."""
    return {18: "val", 19: "test"}.get(number % 20, "train")


def stem(room: int, view: int) -> str:
    return f"{room:05d}_{view:02d}"


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
            yield from render_room(plan, number)
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
    return sum(render_room(plan, number))


def render_room(plan: Plan, number: int) -> Iterator[int]:
    """Write the views of one room that are missing; yields how many were written, batch by batch."""
    room = plan_room(number, plan.seed, _shelf().pieces, plan.views, plan.bodies)
    wanted = plan.missing(number)
    render = {"mitsuba": _render_mitsuba, "blender": _render_blender}[plan.renderer]
    for k, view in render(plan, room, number, wanted):
        write_view(plan.folder(number), stem(number, k), view, plan.depth_format)
        yield 1


@dataclass(frozen=True)
class Shelf:
    """Where models come from."""

    cache: Path
    items: dict[str, assets.Item]
    pieces: list[Piece]
    environments: dict[str, str]


@functools.lru_cache(maxsize=1)
def _shelf() -> Shelf:
    cache = assets.cache_folder()
    items = assets.read_catalogue(cache)
    return Shelf(cache, {item.id: item for item in items}, sort(items), assets.environment_maps(cache))


def batches(views: int, size: tuple[int, int], samples: int) -> list[range]:
    """Views that are rendered in one go: the same ones whatever is missing, or the noise would differ."""
    step = max(1, RAYS_AT_ONCE // (size[0] * size[1] * samples))
    return [range(start, min(start + step, views)) for start in range(0, views, step)]


def _render_mitsuba(plan: Plan, room: Room, number: int, wanted: list[int]) -> Iterator[tuple[int, View]]:
    from .mitsuba_render import load_room, render_views

    loaded = load_room(room, _shelf())
    for batch in batches(plan.views, plan.size, plan.samples):
        if set(batch) & set(wanted):
            cameras = [room.cameras[k] for k in batch]
            seed = (plan.seed * 1_000_003 + number * 101 + batch.start) % (1 << 31)
            for k, view in zip(batch, render_views(loaded, cameras, plan.size, plan.samples, seed)):
                if k in wanted:
                    yield k, view


def _render_blender(plan: Plan, room: Room, number: int, wanted: list[int]) -> Iterator[tuple[int, View]]:
    from .blender import render_views

    yield from render_views(room, _shelf(), plan.size, plan.samples, wanted, plan.blender_python)


@dataclass(frozen=True)
class Report:
    """How far the maps of a folder agree with each other, medians over views."""

    views: int
    normal_deg: float
    """Median angle between the normals and those of the depth, on smooth pixels; the worst view is `worst_deg`."""
    worst_deg: float
    floor_mm: float
    """How far floor pixels are from the plane y = 0 beyond what rounding explains, 99th percentile, worst view."""
    intrinsic: float
    """Median relative error of image = albedo * shading."""
    unknown: float
    """Share of pixels without depth."""
    people: float
    """Share of views with a person or an animal."""
    joints: int
    """People with known joints."""

    def text(self) -> str:
        return (
            f"{self.views} views; normals against depth: median {self.normal_deg:.2f} deg,"
            f" worst view {self.worst_deg:.2f}; floor off its plane: {self.floor_mm:.2f} mm;"
            f" image against albedo x shading: {self.intrinsic:.1%}; without depth: {self.unknown:.1%};"
            f" views with people or animals: {self.people:.0%}; people with joints: {self.joints}\n"
        )

    def faults(self) -> list[str]:
        found = []
        if not self.normal_deg < 2.0:
            found.append(f"normals differ from those of the depth by {self.normal_deg:.2f} degrees, more than 2")
        if not self.floor_mm < 2.0:
            found.append(f"the floor is {self.floor_mm:.2f} mm off its plane, more than 2")
        if not self.intrinsic < 0.15:
            found.append(f"image differs from albedo x shading by {self.intrinsic:.0%}, more than 15%")
        return found


def verify(out: Path) -> Report:
    """Read every view of a rendered folder back and measure how exact it is."""
    folders = [folder for folder in (out, *(out / split for split in SPLITS)) if (folder / "dataset.toml").is_file()]
    stems = [(folder, path.stem) for folder in folders for path in sorted((folder / "camera").glob("*.json"))]
    if not stems:
        raise ValueError(f"{out} holds no rendered views; render some with `diffusion-perception scenes --out {out}`.")
    rows = [_measure(folder, name) for folder, name in stems]

    def middle(name: str) -> float:
        values = [row[name] for row in rows if np.isfinite(row[name])]
        return float(np.median(values)) if values else 0.0

    angles = [row["normal_deg"] for row in rows if np.isfinite(row["normal_deg"])]
    return Report(
        len(rows),
        middle("normal_deg"),
        max(angles, default=0.0),
        max((row["floor_mm"] for row in rows if np.isfinite(row["floor_mm"])), default=0.0),
        middle("intrinsic"),
        float(np.mean([row["unknown"] for row in rows])),
        float(np.mean([row["people"] for row in rows])),
        int(sum(row["joints"] for row in rows)),
    )


def _measure(folder: Path, name: str) -> dict[str, float]:
    """The agreements of one view."""
    maps = read_maps(folder, name)
    camera, depth, normal = maps["camera"], maps["depth"], maps["normal"]
    smooth = smooth_pixels(depth, normal, maps["instance"], maps["segmentation"])
    cosine = (normals_from_depth(depth, camera) * normal).sum(-1)
    angle = np.degrees(np.arccos(np.clip(cosine[smooth], -1, 1)))
    points = back_project(depth, camera)
    pose = camera.matrix()
    height = (points @ pose[:3, :3].T + pose[:3, 3])[..., 1]
    ground = np.isin(maps["segmentation"], (CLASSES.index("floor"), CLASSES.index("ground"))) & (depth > 0)
    # half a depth step along the ray moves the point up or down by this much
    slack = maps["step"] / 2 * np.abs(height - pose[1, 3]) / np.maximum(depth, 1e-6)
    off = np.maximum(np.abs(height) - slack, 0)[ground]
    product = to_linear(maps["albedo"] / 255.0) * maps["shading"]
    image = to_linear(maps["image"] / 255.0)
    usable = (maps["shading"].max(-1) > 0) & (image.max(-1) < 0.98) & (image.min(-1) > 0.01)
    error = np.abs(product - image)[usable] / image[usable]
    return {
        "normal_deg": float(np.median(angle)) if smooth.sum() > 50 else np.nan,
        "floor_mm": float(np.percentile(off, 99) * 1000) if ground.sum() > 20 else np.nan,
        "intrinsic": float(np.median(error)) if error.size else np.nan,
        "unknown": float((depth == 0).mean()),
        "people": float(maps["mask"].any()),
        "joints": maps["joints"],
    }


def smooth_pixels(depth: np.ndarray, normal: np.ndarray, instance: np.ndarray, segmentation: np.ndarray) -> np.ndarray:
    """Where a 3 x 3 neighbourhood is one surface without an edge, so that differences of depth mean its slope."""
    smooth = depth > 0
    for axis, shift in ((0, 1), (0, -1), (1, 1), (1, -1)):
        smooth &= np.roll(instance, shift, axis) == instance
        smooth &= np.roll(segmentation, shift, axis) == segmentation
        smooth &= (np.roll(normal, shift, axis) * normal).sum(-1) > np.cos(np.radians(3))
        smooth &= np.abs(np.roll(depth, shift, axis) / np.maximum(depth, 1e-6) - 1) < 0.1
    smooth[[0, -1]] = False
    smooth[:, [0, -1]] = False
    return smooth


def read_maps(folder: Path, name: str) -> dict[str, Any]:
    """The maps of one view in the units that `dataset.toml` states."""
    import cv2

    def picture(kind: str) -> np.ndarray:
        path = folder / kind / f"{name}.png"
        found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if found is None:
            raise ValueError(
                f"{path} is missing or is not a picture; remove {folder / 'camera' / name}.json and render again."
            )
        return found[..., ::-1] if found.ndim == 3 else found

    notes = json.loads((folder / "camera" / f"{name}.json").read_text())
    described = read_toml(folder / "dataset.toml")
    exact = folder / "depth" / f"{name}.npy"
    unit = described["depth"]["unit"]
    people = json.loads((folder / "keypoints" / f"{name}.json").read_text())["annotations"]
    return {
        "camera": Camera(tuple(tuple(row) for row in notes["camera_to_world"]), notes["fov_deg"]),
        "depth": np.load(exact) if exact.is_file() else picture("depth") * np.float32(unit),
        "step": 0.0 if exact.is_file() else unit,
        "normal": picture("normal") / 65535.0 * 2 - 1,
        "image": picture("images"),
        "albedo": picture("albedo"),
        "shading": picture("shading") / 65535.0 * described["shading"]["scale"],
        "segmentation": picture("segmentation"),
        "instance": picture("instance"),
        "mask": picture("mask"),
        "joints": sum(person["num_keypoints"] > 0 for person in people),
    }


def read_toml(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib  # type: ignore
    return tomllib.loads(path.read_text(encoding="utf-8"))


def contact_sheet(folder: Path, stems: Iterable[str]) -> np.ndarray:
    """Picture, depth, normals, albedo, shading and classes of some views, one view a column: uint8 RGB for the eye."""
    palette = np.random.default_rng(3).integers(40, 255, (256, 3)).astype(np.uint8)
    columns = []
    for name in stems:
        maps = read_maps(folder, name)
        near = np.where(maps["depth"] > 0, 1 / np.maximum(maps["depth"], 0.3), 0) * 0.3
        columns.append(
            np.concatenate(
                [
                    maps["image"],
                    np.repeat((near[..., None] * 255).astype(np.uint8), 3, axis=2),
                    ((maps["normal"] + 1) * 127.5).astype(np.uint8),
                    maps["albedo"],
                    (np.clip(maps["shading"] / 2, 0, 1) ** 0.45 * 255).astype(np.uint8),
                    palette[maps["segmentation"]],
                ]
            )
        )
    return np.concatenate(columns, axis=1)
