"""Chromium for the tests in a browser: `python tools/chromium.py` installs Debian's where there is none and it can."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
ABSENT = "There is no Chromium, so nothing was tried in a browser: install the system's package chromium for that."


def find() -> Path | None:
    """The browser of this machine."""
    found = (shutil.which(name) for name in NAMES)
    return next((Path(path) for path in found if path), None)


def install() -> bool:
    """Get the system's own package; only an administrator can, where packages are Debian's."""
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        return False
    print("Installing Chromium by apt-get", file=sys.stderr, flush=True)
    quietly = ["apt-get", "-qq", "-o", "Dpkg::Use-Pty=0"]
    steps = ([*quietly, "update"], [*quietly, "install", "--yes", "--no-install-recommends", "chromium"])
    unasked = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    return all(subprocess.run(step, env=unasked, stdout=subprocess.DEVNULL).returncode == 0 for step in steps)


def main() -> int:
    """Without a browser its tests are skipped, and all others run: that is no failure."""
    if find() is None and not install():
        print(ABSENT, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
