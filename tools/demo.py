"""`make demo`: the example workflows that need nothing but the pack, in a real ComfyUI; prints where the pictures lie.

--pictures also draws a square picture of each workflow beside it, which ComfyUI's template browser shows.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import comfyui_host
from comfyui import default_base
from comfyui_server import Server

from workflows import EXAMPLE_PICTURE, FOLDER, WORKFLOWS, Workflow


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def results(server: Server, row: Workflow) -> list[Path]:
    """The files that a workflow saves; of one that saves no picture, also those that its nodes show."""
    result = server.submit(read(FOLDER / "api" / f"{row.title}.json"))
    files = dict.fromkeys(file for name in sorted(result.outputs, key=int) for file in result.files(name))
    saved = [file for file in files if file.is_relative_to(server.output)]
    return saved if any(file.suffix == ".png" for file in saved) else list(files)


def draw(row: Workflow, files: list[Path]) -> None:
    """workflows/<title>.jpg: what goes in and what comes out; the graph where that takes models of others."""
    from picture_sheet import thumbnail
    from template_pictures import graph_picture, opened

    if row.needs:
        picture = graph_picture(row.title, read(FOLDER / f"{row.title}.json"))
    else:
        graph = row.graph().values()
        (first, *_) = (node["inputs"]["picture"] for node in graph if node["class_type"] == EXAMPLE_PICTURE)
        entering = opened(FOLDER / "pictures" / f"{first.replace(' ', '-')}.jpg")
        picture = thumbnail(entering, [opened(file) for file in files if file.suffix == ".png"][:3])
    picture.save(FOLDER / f"{row.title}.jpg", quality=88)


def main() -> int:
    """Run the workflows one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", action="store_true", help="draw the pictures of workflows/ anew")
    arguments = parser.parse_args()
    try:
        host = comfyui_host.install()
    except comfyui_host.HostError as error:
        raise SystemExit(f"error: {error}") from None
    with Server(host, default_base()) as server:
        for row in WORKFLOWS:
            files = [] if row.needs else results(server, row)
            for file in files:
                print(f"{row.title}: {file}")
            if arguments.pictures:
                draw(row, files)
    print("`make serve` opens ComfyUI with the same files: the workflows are in its template browser.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
