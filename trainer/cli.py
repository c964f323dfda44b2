"""The command line: one subcommand a verb; what is heavy is imported inside it, so that --help answers at once."""

from __future__ import annotations

import argparse
import difflib
import io
import json
import signal
import sys
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..core.errors import UserError
from ..core.tasks import TASKS

if TYPE_CHECKING:
    from .model_choice import ModelChoice


def main(argv: list[str] | None = None) -> int:
    """Run a command. Exit code 2 and one line on standard error for bad input."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # tests put others in their place
            # a console or a pipe of Windows knows few letters: the others are written as their numbers
            stream.reconfigure(errors="backslashreplace")
    arguments = parser().parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except (UserError, OSError) as error:
        # a library's reason may have several lines
        print(f"diffusion-perception: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"diffusion-perception: {str(stop) or 'cancelled'}", file=sys.stderr)
        return 128 + getattr(stop, "number", signal.SIGINT)


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}{self.nearest(message)}; see --help\n")

    def nearest(self, message: str) -> str:
        """What was probably meant by a flag that does not exist."""
        _, unknown, words = message.partition("unrecognized arguments: ")
        flags = [flag for action in self._actions for flag in _flags_of(action)]
        near = difflib.get_close_matches(words.split("=")[0].split(" ")[0], flags, 1) if unknown else []
        return f" (did you mean {near[0]}?)" if near else ""


def _flags_of(action: argparse.Action) -> list[str]:
    """Those of an argument, or of all arguments of all commands."""
    commands = action.choices.values() if isinstance(action.choices, dict) else ()
    inner = [flag for command in commands for argument in command._actions for flag in argument.option_strings]
    return [*action.option_strings, *inner]


def parser() -> Parser:
    """All commands."""
    about = "Depth, normals, masks and other dense maps by Stable Diffusion models: predict them, train for them."
    root = Parser(prog="diffusion-perception", description=about, formatter_class=Formatter)
    verbs = root.add_subparsers(metavar="COMMAND", required=True)
    _add_predict(verbs.add_parser("predict", help="predict dense maps of images", formatter_class=Formatter))
    _add_train(verbs.add_parser("train", help="train weights for the nodes and for predict", formatter_class=Formatter))
    measured = "measure models on datasets, as the papers do"
    _add_evaluate(verbs.add_parser("evaluate", help=measured, formatter_class=Formatter))
    told = "make training data: pictures, and what teachers see in them"
    _add_label(verbs.add_parser("label", help=told, formatter_class=Formatter))
    looked = "look a dataset over before training on it"
    _add_check(verbs.add_parser("check", help=looked, formatter_class=Formatter))
    _add_scenes(verbs.add_parser("scenes", help="render training data with exact truth", formatter_class=Formatter))
    _add_export(verbs.add_parser("export", help="write a checkpoint or adapter as one file", formatter_class=Formatter))
    _add_extract(verbs.add_parser("extract", help="make an adapter of a fine-tuned UNet", formatter_class=Formatter))
    _add_info(verbs.add_parser("info", help="say what a checkpoint holds and how it is run", formatter_class=Formatter))
    return root


class Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults in the help, except where there is none to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, [], "") else super()._get_help_string(action)


def _add_scenes(verb: argparse.ArgumentParser) -> None:
    """`scenes`: its flags stand with the renderers, which node packs come without."""
    if find_spec("..scenes", __package__) is None:
        verb.prefix_chars = "\0"  # whatever follows is passed over, flags too
        verb.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)
        verb.set_defaults(run=_refuse_scenes)
        return
    from ..scenes import command

    command.add_arguments(verb)
    verb.set_defaults(run=lambda arguments: command.run(vars(arguments)))


def _refuse_scenes(arguments: argparse.Namespace) -> None:
    """`scenes` where it is not there."""
    raise UserError(
        "This copy came without the renderers: take `pip install diffusion-perception[scenes]`, or a clone of the "
        "repository."
    )


def _add_checkpoint_arguments(verb: argparse.ArgumentParser) -> None:
    """What names one of the checkpoints in a file or folder."""
    verb.add_argument("--family", default="auto", help="published family, where its files cannot tell")
    verb.add_argument("--task", default="", metavar="TASK", help=f"one of {', '.join(TASKS)}; as trained if left out")


def _add_source_arguments(verb: argparse.ArgumentParser, model: str) -> None:
    """What is run: a model, or an adapter on its base."""
    sources = verb.add_mutually_exclusive_group(required=True)
    sources.add_argument("--model", type=Path, help=model)
    sources.add_argument("--adapter", type=Path, help="LoRA file or folder of any spelling, or one of `extract`")
    verb.add_argument("--base", type=Path, help="what the adapter sits on: Stable Diffusion, as a folder or a file")


def _choice_of(arguments: argparse.Namespace) -> ModelChoice:
    """What is run."""
    from .model_choice import ModelChoice

    return ModelChoice(**of(ModelChoice, arguments))


def of(kind: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """Those of a dataclass's fields that the arguments name."""
    said = vars(arguments)
    return {field.name: said[field.name] for field in fields(kind) if field.name in said}


def _add_recipe_arguments(verb: argparse.ArgumentParser) -> None:
    """What changes how it is run."""
    key = "FILE[:KEY]"
    setting = "override a recipe field"
    verb.add_argument("--set", dest="overrides", action="append", default=[], metavar="FIELD=VALUE", help=setting)
    verb.add_argument("--context", default="", metavar=key, help="text embedding to use (.safetensors or .npy)")
    verb.add_argument("--negative-context", default="", metavar=key, help="text embedding for guidance to lead from")


def _add_predict(verb: argparse.ArgumentParser) -> None:
    """The arguments of `predict`."""
    model = "folder in diffusers layout, published repository or .safetensors file"
    out = "folder for <stem>.npy (raw values; of keypoints <stem>.json, OpenPose's) and <stem>.png (for the eye)"
    given = "picture, folder of frames, or video, whose frames are numbered in a folder of its name"
    verb.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help=given)
    _add_source_arguments(verb, model)
    verb.add_argument("--out", type=Path, required=True, help=out)
    _add_checkpoint_arguments(verb)
    verb.add_argument("--resolution", type=int, default=-1, help="-1 as trained, 0 the image's own, or pixels")
    tile = "see pictures larger than N pixels again in overlapping tiles of N, for detail"
    verb.add_argument("--tile", type=int, default=0, metavar="N", help=tile)
    raw = "of the raw values: npy, or single- or half-precision EXR"
    verb.add_argument("--format", choices=("npy", "exr", "exr-half"), default="npy", help=raw)
    steady = "for the depth of folders and videos: how far each frame follows the level of those before, 0 to 1"
    verb.add_argument("--steady", type=float, default=0.0, metavar="STRENGTH", help=steady)
    blend = "for folders and videos: share of the frames before in each answer where nothing moves, 0 to below 1"
    verb.add_argument("--blend", type=float, default=0.0, metavar="SHARE", help=blend)
    _add_recipe_arguments(verb)
    noise = "initial latents (members, channels, h, w) in place of the seeded ones"
    verb.add_argument("--noise", default="", metavar="FILE[:KEY]", help=noise)
    added = "what LCM adds after each step but the last, (steps - 1, members, channels, h, w)"
    verb.add_argument("--step-noise", default="", metavar="FILE[:KEY]", help=added)
    people = verb.add_mutually_exclusive_group()
    boxes = "for keypoints, where people are: JSON {picture's name: [[x, y, width, height] or these and a score, ...]}"
    people.add_argument("--boxes", type=Path, metavar="FILE", help=boxes)
    masks = "or a folder of masks named like the pictures: every connected part a person; the whole picture if left out"
    people.add_argument("--mask", type=Path, metavar="FOLDER", help=masks)
    mirror = "for keypoints: look at the mirror image too and take the mean, a little better in twice the time"
    verb.add_argument("--flip-test", action="store_true", help=mirror)
    verb.add_argument("--device", default="", help="cpu, cuda, mps; the best there is if left out")
    for role in ("decoder", "encoder"):
        light = f"the VAE's {role}: full, light (the checkpoint's), or a file of `train` or TAESD's"
        verb.add_argument(f"--{role}", default="full", metavar="full|light|FILE", help=light)
    verb.set_defaults(run=_run_predict)


def _run_predict(arguments: argparse.Namespace) -> None:
    """`predict`."""
    choice = _choice_of(arguments)
    choice.check()
    from .predict import Prediction, predict_files

    said = vars(arguments)
    predict_files(
        Prediction(
            choice=choice, **{field.name: said[field.name] for field in fields(Prediction) if field.name in said}
        )
    )


def _add_train(verb: argparse.ArgumentParser) -> None:
    """The arguments of `train`: every key of the config is a flag."""
    from .config import leaves

    verb.add_argument("config", nargs="?", type=Path, metavar="CONFIG.toml", help="what to train; flags stand above it")
    verb.add_argument("--print-config", action="store_true", help="print the whole config, resolved, and train nothing")
    verb.add_argument("--presets", action="store_true", help="list the published recipes that `preset` can name")
    begun = "write a config to begin with, its lines explained, for --preset or for a folder of your own; train nothing"
    verb.add_argument("--write-config", type=Path, metavar="FILE", help=begun)
    roots = "plain folder to learn from, or to measure on, in place of the config's [[data]] or [[validation]]"
    for name in ("data", "validation"):
        verb.add_argument(f"--{name}", dest=f"{name}s", action="append", default=[], metavar="ROOT", help=roots)
    setting = "set a recipe field, for every task"
    verb.add_argument("--set", dest="overrides", action="append", default=[], metavar="FIELD=VALUE", help=setting)
    for key, help, default in leaves():
        section, _, last = key.rpartition(".")
        short = section if last in ("path", "name") else last  # --base, --optimiser
        flags = dict.fromkeys([f"--{short.replace('_', '-')}", f"--{key}"])
        # %: argparse formats help texts; SUPPRESS: what is not said must not stand above the file
        text = help.replace("%", "%%") + (f" (default: {default})" if default not in ("", (), None) else "")
        verb.add_argument(*flags, dest=key, metavar="VALUE", default=argparse.SUPPRESS, help=text)
    verb.set_defaults(run=_run_train)


def _run_train(arguments: argparse.Namespace) -> None:
    """`train`."""
    from .config import leaves, read

    if arguments.write_config:
        from .first_config import write_first

        said = {key for key, *_ in leaves() if key in vars(arguments)} - {"preset"}
        if arguments.config or said or arguments.overrides or arguments.datas or arguments.validations:
            raise UserError("--write-config takes --preset and nothing else: say the rest in the file that it writes.")
        print(write_first(arguments.write_config, vars(arguments).get("preset", "")))
        return
    if arguments.presets:
        from .presets import PRESETS

        width = max(map(len, PRESETS)) + 2
        print(*(f"{name:<{width}}{row.title}" for name, row in PRESETS.items()), sep="\n")
        return
    said = vars(arguments)
    flags = {key: said[key] for key, *_ in leaves() if key in said}
    for name in ("data", "validation"):
        flags |= {name: [{"root": root} for root in said[f"{name}s"]]} if said[f"{name}s"] else {}
    if arguments.overrides:
        from ..core.recipe import parse_assignment

        flags |= {f"recipe.{field}": value for field, value in map(parse_assignment, arguments.overrides)}
    config = read(arguments.config, flags)
    if arguments.print_config:
        from .checks import check_said, missing
        from .resolved import resolved

        check_said(config)
        print(resolved(config), end="")
        if lacks := missing(config):
            print(f"diffusion-perception: to train, this is not enough yet. {lacks}", file=sys.stderr)
        return
    from .train import run

    run(config)


def _add_evaluate(verb: argparse.ArgumentParser) -> None:
    """The arguments of `evaluate`."""
    models = (
        "checkpoint, or adapter of --base; constant or image-row; an .onnx file with a .toml beside it; a folder of a "
        "model of transformers for depth or segments"
    )
    verb.add_argument("models", nargs="+", metavar="MODEL", help=models)
    sets = "[READER:]FOLDER[,KEY=VALUE...], a reader's name as in a training config; a plain folder if left out"
    verb.add_argument("--data", nargs="+", required=True, metavar="SET", help=sets)
    out = "folder for report.html, evaluation.json, evaluation.csv and pictures.csv; what is in it is gone on with"
    verb.add_argument("--out", type=Path, required=True, help=out)
    tasks = f"measure only these of the models' tasks: {', '.join(TASKS)}"
    verb.add_argument("--task", dest="tasks", action="append", default=[], metavar="TASK", help=tasks)
    verb.add_argument("--base", type=Path, help="what adapters sit on: Stable Diffusion, as a folder or a file")
    verb.add_argument("--family", default="auto", help="published family, where the files cannot tell")
    _add_recipe_arguments(verb)
    verb.add_argument("--images", type=int, default=0, metavar="N", help="the first N pictures of each set; 0 is all")
    resolution = "in place of each set's own: -1 as trained, 0 the picture's, or pixels"
    verb.add_argument("--resolution", type=int, help=resolution)
    verb.add_argument("--examples", type=int, default=3, metavar="N", help="best and worst pictures in the report")
    verb.add_argument("--device", default="", help="cpu, cuda, mps; the best there is if left out")
    verb.set_defaults(run=_run_evaluate)


def _run_evaluate(arguments: argparse.Namespace) -> int:
    """`evaluate`."""
    from .evaluate import Evaluation, evaluate_all
    from .evaluation.contenders import Asked

    return evaluate_all(Evaluation(asked=Asked(**of(Asked, arguments)), **of(Evaluation, arguments)))


def _add_label(verb: argparse.ArgumentParser) -> None:
    """The arguments of `label`."""
    plan = "which prompts, pictures and teachers; the same command goes on where it was stopped"
    verb.add_argument("plan", type=Path, metavar="CONFIG.toml", help=plan)
    verb.add_argument("--out", type=Path, help="plain folder to write, in place of the file's `out`")
    verb.add_argument("--device", default="", help="cpu, cuda, mps; the best there is if left out")
    verb.set_defaults(run=_run_label)


def _run_label(arguments: argparse.Namespace) -> int:
    """`label`."""
    from .label import Labelling, make_labels

    return make_labels(Labelling(**of(Labelling, arguments)))


def _add_check(verb: argparse.ArgumentParser) -> None:
    """The arguments of `check`."""
    sets = "[READER:]FOLDER[,KEY=VALUE...], a reader's name as in a training config; a plain folder if left out"
    verb.add_argument("data", metavar="SET", help=sets)
    tasks = f"look at these only: {', '.join(TASKS)}; all that it has truth of if left out"
    verb.add_argument("--task", dest="tasks", action="append", default=[], metavar="TASK", help=tasks)
    verb.add_argument("--images", type=int, default=0, metavar="N", help="read N pictures, evenly spread; 0 is all")
    verb.add_argument("--out", type=Path, help="folder for check.json and a contact sheet of each task")
    verb.set_defaults(run=_run_check)


def _run_check(arguments: argparse.Namespace) -> int:
    """`check`."""
    from .check import Look, look_over

    return look_over(Look(**of(Look, arguments)))


def _add_written_arguments(verb: argparse.ArgumentParser) -> None:
    """What is written, and how."""
    verb.add_argument("--out", type=Path, required=True, metavar="FILE", help=".safetensors file, or folder, to write")
    _add_checkpoint_arguments(verb)
    _add_recipe_arguments(verb)
    verb.add_argument("--licence", default="", help="licence of the weights, for their header")
    verb.add_argument("--data", default="", help="what they were trained on, for their header")
    verb.add_argument("--dtype", choices=("fp16", "bf16", "fp32"), default="fp16", help="precision to store")
    for role in ("decoder", "encoder"):
        light = f"light {role} of `train`, or TAESD's, to put into it; once for each task"
        verb.add_argument(f"--{role}", type=Path, action="append", default=[], metavar="FILE", help=light)


def _add_export(verb: argparse.ArgumentParser) -> None:
    """The arguments of `export`."""
    _add_source_arguments(verb, "folder in diffusers layout, published repository or .safetensors file")
    _add_written_arguments(verb)
    layouts = "own, one file; diffusers, a folder of networks or the names of its LoRA; kohya, its names of a LoRA"
    verb.add_argument("--layout", choices=("own", "diffusers", "kohya"), default="own", help=layouts)
    verb.add_argument("--merge", action="store_true", help="write the base with the adapter added in, not the adapter")
    verb.set_defaults(run=_run_export)


def _run_export(arguments: argparse.Namespace) -> None:
    """`export`."""
    choice = _choice_of(arguments)
    choice.check()
    from .export import Export, export

    print(*export(Export(choice, **of(Export, arguments))), sep="\n")


def _add_extract(verb: argparse.ArgumentParser) -> None:
    """The arguments of `extract`."""
    verb.add_argument("--model", type=Path, required=True, help="the fine-tuned checkpoint, file or folder")
    verb.add_argument("--base", type=Path, required=True, help="the Stable Diffusion model that it was trained from")
    verb.add_argument("--rank", type=rank, default=16, help="of the low-rank layers, or full to keep every difference")
    _add_written_arguments(verb)
    verb.set_defaults(run=_run_extract)


def rank(text: str) -> int | None:
    """A positive number, or full."""
    if text == "full":
        return None
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a positive number nor full")
    return int(text)


def _run_extract(arguments: argparse.Namespace) -> None:
    """`extract`."""
    from .export import Export, export_difference

    print(*export_difference(Export(_choice_of(arguments), **of(Export, arguments))), sep="\n")


def _add_info(verb: argparse.ArgumentParser) -> None:
    """The arguments of `info`."""
    verb.add_argument("file", type=Path, metavar="FILE", help="checkpoint, adapter or VAE, file or folder")
    _add_checkpoint_arguments(verb)
    verb.set_defaults(run=_run_info)


def _run_info(arguments: argparse.Namespace) -> None:
    """`info`."""
    from ..core.checkpoints.adapter_file import describe_adapter, is_adapter
    from ..core.checkpoints.describe import describe

    if is_adapter(arguments.file):
        told = describe_adapter(arguments.file)
    else:
        told = describe(arguments.file, arguments.family, arguments.task)
    print(json.dumps(told, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    sys.exit(main())
