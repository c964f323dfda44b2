"""Adds what is new in the nodes to contract.json; what is there stays. Run it from the repository's root."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).absolute().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests"), str(Path(__file__).parent)]

import comfyui_host  # noqa: E402
from comfyui_server import Server  # noqa: E402
from test_contract import CONTRACT, broken, contract  # noqa: E402


def main() -> None:
    """Write the contract, unless workflows saved under the old one were broken."""
    with tempfile.TemporaryDirectory() as base, Server(comfyui_host.install(), Path(base)) as server:
        found = contract(server.object_info())
    kept = json.loads(CONTRACT.read_text("utf-8")) if CONTRACT.exists() else {}
    if faults := broken(kept, found):
        raise SystemExit("saved workflows hold this: " + "; ".join(faults))
    CONTRACT.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
