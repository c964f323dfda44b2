"""Rendered scenes in a few small archives, for a machine that a folder of many files cannot be copied to.

    python tools/shards.py SCENES OUT [--size 60]     writes OUT/scenes-000.tar ..., each of at most so many MiB
    cat OUT/*.tar | tar x -i -C ELSEWHERE             unpacks them

What the starter learns from is kept; photographs and albedo become JPEG, which costs them little.
"""

from __future__ import annotations

import argparse
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

KEPT = ("images", "depth", "normal", "mask", "segmentation", "albedo", "keypoints", "camera")
AS_JPEG = ("images", "albedo")
QUALITY = 95
MEBIBYTE = 1 << 20
BLOCK = tarfile.BLOCKSIZE


def files(scenes: Path) -> Iterator[tuple[str, bytes]]:
    """(name inside the archive, content), view by view, so that an archive that got lost costs few of them."""
    for split in sorted(path for path in scenes.iterdir() if (path / "dataset.toml").is_file()):
        yield f"{split.name}/dataset.toml", (split / "dataset.toml").read_bytes()
        for image in sorted((split / "images").iterdir()):
            for folder in KEPT:
                for file in sorted((split / folder).glob(f"{image.stem}.*")):
                    yield packed(split.name, folder, file)


def packed(split: str, folder: str, file: Path) -> tuple[str, bytes]:
    if folder not in AS_JPEG:
        return f"{split}/{folder}/{file.name}", file.read_bytes()
    content = io.BytesIO()
    with Image.open(file) as picture:
        picture.convert("RGB").save(content, "JPEG", quality=QUALITY, subsampling=0)
    return f"{split}/{folder}/{file.stem}.jpg", content.getvalue()


def _shards(scenes: Path, limit: int) -> Iterator[list[tuple[str, bytes]]]:
    """The files, as many together as an archive of `limit` bytes holds."""
    shard: list[tuple[str, bytes]] = []
    held = 0
    for name, content in files(scenes):
        room = BLOCK + -(-len(content) // BLOCK) * BLOCK
        if shard and held + room > limit - tarfile.RECORDSIZE:
            yield shard
            shard, held = [], 0
        shard.append((name, content))
        held += room
    if shard:
        yield shard


def write(scenes: Path, out: Path, limit: int) -> list[Path]:
    """Archives of at most `limit` bytes, as long as no single file is larger."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for number, shard in enumerate(_shards(scenes, limit)):
        written.append(out / f"scenes-{number:03}.tar")
        with tarfile.open(written[-1], "w", format=tarfile.USTAR_FORMAT) as archive:
            for name, content in shard:
                about = tarfile.TarInfo(name)
                about.size = len(content)
                archive.addfile(about, io.BytesIO(content))
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=60, help="of each archive, MiB")
    arguments = parser.parse_args()
    for path in write(arguments.scenes, arguments.out, arguments.size * MEBIBYTE):
        print(path, f"{path.stat().st_size / MEBIBYTE:.1f} MiB")


if __name__ == "__main__":
    main()
