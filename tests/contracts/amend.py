"""Adds what is new in the project to the contracts beside this file; what is there stays. Run it from the root."""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).absolute().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from append_only import lost  # noqa: E402
from contract import contracts  # noqa: E402


def main() -> None:
    """Write the contracts, unless something of an old one were lost."""
    for name, read in contracts().items():
        file, found = HERE / f"{name}.json", read()
        kept = json.loads(file.read_text("utf-8")) if file.exists() else {}
        if faults := lost(kept, found, name):
            raise SystemExit("saved files and scripts hold this: " + "; ".join(faults))
        file.write_text(json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
