"""Writes what the example workflows draw now into references/. Run it from the repository's root, and look at them."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).absolute().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests"), str(Path(__file__).parent)]

import blueprints  # noqa: E402
import comfyui_host  # noqa: E402
import example_runs  # noqa: E402
from comfyui_server import Server  # noqa: E402
from PIL import Image  # noqa: E402

import workflows  # noqa: E402


def main() -> None:
    """One picture a workflow, and one a blueprint."""
    example_runs.REFERENCES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as base, Server(comfyui_host.install(), Path(base)) as server:
        example_runs.furnish(server)
        graphs = {title: example_runs.workflow(title) for title in workflows.BY_TITLE}
        schemas = server.object_info()
        graphs |= {row.title: example_runs.blueprint(row.title, schemas) for row in blueprints.BLUEPRINTS}
        for title, graph in graphs.items():
            strip = example_runs.strip(example_runs.run(server, graph))
            Image.fromarray(strip).save(example_runs.reference(title), optimize=True)


if __name__ == "__main__":
    main()
