"""The command line: one subcommand a verb; what is heavy is imported inside it, so that --help answers at once."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import NoReturn

from ..core.tasks import TASKS


def main(argv: list[str] | None = None) -> int:
    """Run a command. Exit code 2 and one line on standard error for bad input."""
    arguments = parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except (ValueError, OSError) as error:
        print(f"diffusion-perception: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("diffusion-perception: cancelled", file=sys.stderr)
        return 130
    return 0


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see --help\n")


def parser() -> Parser:
    """All commands."""
    root = Parser(prog="diffusion-perception", description=__doc__, formatter_class=Formatter)
    verbs = root.add_subparsers(metavar="COMMAND", required=True)
    add_predict(verbs.add_parser("predict", help="predict dense maps of images", formatter_class=Formatter))
    add_info(verbs.add_parser("info", help="say what a checkpoint holds and how it is run", formatter_class=Formatter))
    return root


class Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults in the help, except where there is none to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, [], "") else super()._get_help_string(action)


def add_checkpoint_arguments(verb: argparse.ArgumentParser) -> None:
    """What names one of the checkpoints in a file or folder."""
    verb.add_argument("--family", default="auto", help="published family, where its files cannot tell")
    verb.add_argument("--task", default="", metavar="TASK", help=f"one of {', '.join(TASKS)}; as trained if left out")


def add_predict(verb: argparse.ArgumentParser) -> None:
    """The arguments of `predict`."""
    model = "folder in diffusers layout, published repository or .safetensors file"
    out = "folder for <stem>.npy (raw values) and <stem>.png (for the eye)"
    key = "FILE[:KEY]"
    verb.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    verb.add_argument("--model", type=Path, required=True, help=model)
    verb.add_argument("--out", type=Path, required=True, help=out)
    add_checkpoint_arguments(verb)
    verb.add_argument("--resolution", type=int, default=-1, help="-1 as trained, 0 the image's own, or pixels")
    setting = "override a recipe field for this run"
    verb.add_argument("--set", dest="overrides", action="append", default=[], metavar="FIELD=VALUE", help=setting)
    verb.add_argument("--context", default="", metavar=key, help="text embedding to use (.safetensors or .npy)")
    verb.add_argument("--negative-context", default="", metavar=key, help="text embedding that guidance moves away from")
    verb.add_argument("--device", default="", help="cpu, cuda, mps; the best there is if left out")
    verb.set_defaults(run=run_predict)


def run_predict(arguments: argparse.Namespace) -> None:
    """`predict`."""
    from .predict import run

    run(arguments)


def add_info(verb: argparse.ArgumentParser) -> None:
    """The arguments of `info`."""
    verb.add_argument("file", type=Path, metavar="FILE", help="checkpoint file or folder")
    add_checkpoint_arguments(verb)
    verb.set_defaults(run=run_info)


def run_info(arguments: argparse.Namespace) -> None:
    """`info`."""
    from ..core.checkpoint import describe

    print(json.dumps(describe(arguments.file, arguments.family, arguments.task), indent=2, ensure_ascii=False))


if __name__ == "__main__":
    sys.exit(main())
