"""The command line: one subcommand a verb; what is heavy is imported inside the verb, so that --help answers at once."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ..core.tasks import TASKS


def main(argv: list[str] | None = None) -> int:
    """Run a command. Exit code 2 and one line on standard error for bad input."""
    arguments = parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except (ValueError, FileNotFoundError, PermissionError, IsADirectoryError) as error:
        print(f"diffusion-perception: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("diffusion-perception: cancelled", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="diffusion-perception", description=__doc__, formatter_class=Formatter)
    verbs = root.add_subparsers(metavar="COMMAND", required=True)
    add_predict(verbs.add_parser("predict", help="predict dense maps of images", formatter_class=Formatter))
    add_info(verbs.add_parser("info", help="say what a checkpoint holds and how it is run", formatter_class=Formatter))
    return root


class Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults in the help, except where there is none to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, [], "") else super()._get_help_string(action)


def add_checkpoint_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--family", default="auto", help="published family, where its files cannot tell")
    verb.add_argument("--task", default="", metavar="TASK", help=f"one of {', '.join(TASKS)}; as trained if left out")
    verb.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="FIELD=VALUE", help="override a recipe field for this run"
    )


def add_predict(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    verb.add_argument("--model", type=Path, required=True, help="folder in diffusers layout, published repository or .safetensors file")
    verb.add_argument("--out", type=Path, required=True, help="folder for <stem>.npy (raw values) and <stem>.png (for the eye)")
    add_checkpoint_arguments(verb)
    verb.add_argument("--resolution", type=int, default=-1, help="-1 as trained, 0 the image's own, or pixels")
    verb.add_argument("--context", default="", metavar="FILE[:KEY]", help="text embedding to use (.safetensors or .npy)")
    verb.add_argument("--negative-context", default="", metavar="FILE[:KEY]", help="text embedding that guidance moves away from")
    verb.add_argument("--device", default="", help="cpu, cuda, mps; the best there is if left out")
    verb.set_defaults(run=run_predict)


def run_predict(arguments: argparse.Namespace) -> None:
    from .predict import run

    run(arguments)


def add_info(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("file", type=Path, metavar="FILE", help="checkpoint file or folder")
    add_checkpoint_arguments(verb)
    verb.set_defaults(run=run_info)


def run_info(arguments: argparse.Namespace) -> None:
    from ..core.checkpoint import describe

    print(json.dumps(describe(arguments.file, arguments.family, arguments.task), indent=2, ensure_ascii=False))


if __name__ == "__main__":
    sys.exit(main())
