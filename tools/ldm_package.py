"""`ldm`, the networks of AUTOMATIC1111's WebUI, for the tests: out of a package that holds them, into the cache."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

from comfyui_host import cache_directory, downloaded_wheel, locked, say

WHEEL = "auto1111sdk==0.0.95"
SHA256 = "5e5e16a3eb2f8600506eb51d65d930891a9540358cd8771c83873909a0c29908"
IN_WHEEL = "auto1111sdk/modules/stable/"
OTHERWISE = "set DIFFUSION_PERCEPTION_NO_HOST=1 to go without"


def install() -> Path:
    """The folder to be put on the path, from which `ldm` is imported. HostError where it cannot be had."""
    folder = cache_directory() / "ldm-0.0.95"
    if folder.is_dir():
        return folder
    with locked(), tempfile.TemporaryDirectory(dir=cache_directory()) as scratch:
        if not folder.is_dir():
            say(f"Fetching ldm into {folder}")
            with zipfile.ZipFile(downloaded_wheel(Path(scratch), WHEEL, SHA256, OTHERWISE)) as archive:
                names = [
                    name for name in archive.namelist() if name.startswith(f"{IN_WHEEL}ldm/") and name.endswith(".py")
                ]
                archive.extractall(Path(scratch) / "unpacked", names)
            (Path(scratch) / "unpacked" / IN_WHEEL).rename(folder)
    return folder
