"""`make demo`: the example workflows on a real photograph, in a real ComfyUI; prints where the pictures lie.

`make pictures` (--pictures) also draws them into workflows/, where ComfyUI's template browser shows them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import comfyui_host
from comfyui import default_base
from comfyui_server import Server

from diffusion_perception.scenes.assets import SCIKIT_IMAGE, fetch_wheel
from workflows import FOLDER, NOTES, PHOTO

# NASA's portrait of Eileen Collins, in the public domain, as an old release of scikit-image carries it
PHOTO_IN_WHEEL = "skimage/data/astronaut.png"


def photograph(cache: Path) -> Path:
    """A real photograph, fetched once, under the name that the workflows have for it."""
    picture = cache / PHOTO
    if not picture.exists():
        content = (fetch_wheel(SCIKIT_IMAGE, cache) / PHOTO_IN_WHEEL).read_bytes()
        picture.write_bytes(content)
    return picture


PICTURE_HEIGHT = 384


def draw(name: str, files: list[Path]) -> None:
    """workflows/<name>.jpg: what went in, and what came out."""
    from PIL import Image

    row = []
    for file in files:
        with Image.open(file) as opened:
            flat = Image.new("RGB", opened.size, "white")
            flat.paste(opened.convert("RGB"), mask=opened.getchannel("A") if opened.mode == "RGBA" else None)
            row.append(flat.resize((opened.width * PICTURE_HEIGHT // opened.height, PICTURE_HEIGHT)))
    picture = Image.new("RGB", (sum(part.width for part in row), PICTURE_HEIGHT))
    left = 0
    for part in row:
        picture.paste(part, (left, 0))
        left += part.width
    picture.save(FOLDER / f"{name}.jpg", quality=88)


def main() -> int:
    """Run the workflows one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", action="store_true", help="draw the pictures of workflows/ anew")
    arguments = parser.parse_args()
    try:
        host = comfyui_host.install()
    except comfyui_host.HostError as error:
        raise SystemExit(f"error: {error}") from None
    base = default_base()
    with Server(host, base) as server:
        photo = photograph(comfyui_host.cache_directory())
        server.add_input(photo)
        for path in sorted((FOLDER / "api").glob("*.json")):
            if path.stem in NOTES:  # runs on models of the user's own
                continue
            graph = json.loads(path.read_text(encoding="utf-8"))
            result = server.submit(graph)
            files = [file for name in result.outputs for file in result.files(name)]
            for file in files:
                print(f"{path.stem}: {file}")
            if arguments.pictures:
                draw(path.stem, [photo, *(file for file in files if file.suffix == ".png")])
    print("`make serve` opens ComfyUI with the same files: the workflows are in its template browser.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
