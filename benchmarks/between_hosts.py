"""Whether versions of ComfyUI give the same numbers: the starter's tasks and the golden folders, by the nodes.

`between_hosts.py write FILE` runs them in the ComfyUI of COMFYUI_DIR and HOST_PYTHON (the pinned one if unset), keeping
the maps; `between_hosts.py compare FILE FILE ...` prints how far the furthest case of each is from the first.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).absolute().parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests" / "host")]

import comfyui_host  # noqa: E402
from comfyui_server import Server  # noqa: E402
from graph import perceive_file  # noqa: E402
from test_golden_nodes import FOLDERS, TASKS, install, overrides  # noqa: E402

STARTER_TASKS = ("depth", "normal", "mask", "segmentation", "albedo")
VIEW = sorted((ROOT / "tests" / "data" / "scenes" / "test" / "images").iterdir())[0]


def maps(server: Server, golden: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(case, raw values) of all that is run."""
    picture = server.add_input(VIEW)
    for task in STARTER_TASKS:
        yield f"starter/{task}", values(server, "starter.safetensors", picture, task)
    for folder in FOLDERS:
        install(server, golden, folder)
        for case in json.loads((golden / folder / "cases.json").read_text()):
            task, picture = TASKS.get(case["mode"], case["mode"]), f"{folder}_{case['image']}.png"
            seen = values(server, folder, picture, task, overrides(case), case["processing_res"])
            yield f"{folder}/{case['name']} ({case.get('steps', 1)} steps)", seen


def values(server: Server, model: str, picture: str, *how: Any) -> np.ndarray:
    graph, saved = perceive_file(model, picture, "between", *how)
    return np.load(server.submit(graph).files(saved.name)[0])


def write(file: Path) -> None:
    """Run everything in one host and keep what came out."""
    golden = Path(os.environ.get("GOLDEN_DIR") or ROOT.parent / "shared" / "golden")
    with tempfile.TemporaryDirectory() as base, Server(comfyui_host.install(), Path(base)) as server:
        found = dict(maps(server, golden))
    np.savez(file, **{name.replace("/", "|"): array for name, array in found.items()})  # pyright: ignore[reportArgumentType]


def compare(first: Path, others: list[Path]) -> None:
    """Print the largest difference of each kind of case."""
    with np.load(first) as mine:
        for other in others:
            with np.load(other) as theirs:
                apart = {name: float(np.abs(mine[name] - theirs[name]).max()) for name in mine.files}
            one = {name: gap for name, gap in apart.items() if "steps" not in name or "(1 steps)" in name}
            many = {name: gap for name, gap in apart.items() if name not in one}
            print(f"{other.name}: {len(apart)} cases; one step {_worst(one)}; several steps {_worst(many)}")


def _worst(apart: dict[str, float]) -> str:
    name = max(apart, key=lambda case: apart[case])
    return f"{apart[name]:.2g} ({name.replace('|', '/')}, of {len(apart)})"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("write", "compare"))
    parser.add_argument("files", nargs="+", type=Path)
    chosen = parser.parse_args()
    if chosen.verb == "write":
        write(chosen.files[0])
    else:
        compare(chosen.files[0], chosen.files[1:])


if __name__ == "__main__":
    main()
