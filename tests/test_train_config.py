"""The config: every key is a flag and a TOML key, presets are laid under it, and what is wrong is said in one line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from diffusion_perception.core.measure.align import ALIGNMENTS
from diffusion_perception.core.measure.losses import LOSSES
from diffusion_perception.core.measure.metrics import METRICS
from diffusion_perception.core.tasks import TASKS
from diffusion_perception.trainer import config
from diffusion_perception.trainer.cli import main
from diffusion_perception.trainer.config import Config, ConfigError, leaves, read, to_toml
from diffusion_perception.trainer.presets import PRESETS


def written(tmp_path, text):
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


def test_what_is_said_stands_above_the_preset_and_flags_above_both(tmp_path):
    path = written(tmp_path, 'preset = "genpercept-depth"\nsteps = 7\n[optimiser]\nlr = 1e-4\n')
    found = read(path, {"optimiser.lr": "2e-4", "size": "64,96"})
    assert (found.steps, found.optimiser.lr, found.size) == (7, 2e-4, (64, 96))
    assert (found.optimiser.warmup, found.objective.pixel_losses["depth"]) == (100, ["mse", "ssi", "vertical-gradient"])


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_prints_its_whole_config_which_reads_as_the_same(tmp_path, capsys, name):
    assert main(["train", "--preset", name, "--print-config"]) == 0
    text = capsys.readouterr().out
    assert read(written(tmp_path, text)) == read(None, {"preset": name})
    assert all(f"{key.rpartition('.')[2]} = " in text for key, *_ in leaves())


def test_texts_survive_being_printed(tmp_path):
    asked = Config(title='a "title"\\ with\nlines', data=(config.Source("C:\\rooms", settings={"a b": [1.5, True]}),))
    assert read(written(tmp_path, to_toml(asked))) == asked


def test_no_two_keys_share_a_flag():
    names = [key.rpartition(".")[2] for key, *_ in leaves()]
    assert len(names) == len(set(names))


def test_every_key_says_what_it_is():
    assert all(len(text) > 3 for _, text, _ in leaves())


def test_presets_name_losses_that_exist():
    listed = [PRESETS[name].settings.get("objective", {}).get("pixel_losses", {}) for name in PRESETS]
    named = {loss.partition(":")[0] for losses in listed for names in losses.values() for loss in names}
    assert named <= set(LOSSES)


def datasets(preset, *tables):
    """What a preset makes of [[data]] tables."""
    return read(None, {"preset": preset, "data": [{"root": "a", **table} for table in tables]}).data


def test_a_preset_says_how_its_datasets_are_mixed_and_a_config_above_it():
    rooms, streets, other = datasets("genpercept-depth", {"reader": "hypersim"}, {"reader": "vkitti"}, {})
    assert [(row.weight, row.size) for row in (rooms, streets, other)] == [(0.9, ()), (0.1, (352, 1216)), (1.0, ())]
    (mine,) = datasets("genpercept-depth", {"reader": "vkitti", "size": [96, 320], "weight": 2.0})
    assert (mine.weight, mine.size) == (2.0, (96, 320))


def test_a_preset_of_captions_asks_for_them_of_every_dataset():
    assert [row.captions for row in datasets("dmp-depth-captions", {}, {"captions": ""})] == ["metadata.jsonl", ""]
    assert datasets("dmp-depth", {})[0].captions == ""


def test_settings_of_a_reader_are_laid_over_those_of_the_preset():
    (row,) = datasets("e2e-ft-depth", {"reader": "vkitti", "settings": {"scenes": ["Scene01"], "variations": ["fog"]}})
    assert row.settings == {"cameras": ["Camera_0", "Camera_1"], "scenes": ["Scene01"], "variations": ["fog"]}


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_every_task_names_losses_an_alignment_and_metrics_that_exist(task):
    assert task.losses
    assert set(task.losses) <= set(LOSSES)
    assert task.align in ALIGNMENTS
    assert task.metrics
    assert set(task.metrics) <= set(METRICS)
    assert METRICS[task.metrics[0]].perfect < float("inf")


WRONG = {
    "a misspelt key": ("stpes = 3", "There is no key 'stpes': did you mean 'steps'?"),
    "a misspelt key in a section": ("[optimiser]\nlearning = 1", "There is no key 'optimiser.learning'"),
    "a key of another section": ("lr = 1e-4", "There is no key 'lr': did you mean 'optimiser.lr'?"),
    "a key in the wrong section": ("[network]\nlr = 1e-4", "no key 'network.lr': did you mean 'optimiser.lr'?"),
    "a word for a number": ('steps = "many"', "steps = 'many': expected a whole number."),
    "a number for a text": ("out = 3", "out = 3: expected a text."),
    "a truth value for a number": ("steps = true", "steps = True: expected a whole number."),
    "a choice that there is not": ('precision = "fp8"', "precision = 'fp8' is not one of"),
    "an odd size": ("size = [100, 64]", "size = [100, 64]: height and width must be multiples of 8"),
    "one number for a size": ("size = [64]", "size = [64]: expected 2 values."),
    "no steps": ("steps = 0", "steps = 0 is outside 1.."),
    "an unknown task": ('tasks = ["depht"]', "There is no task 'depht': did you mean 'depth'?"),
    "an unknown preset": ('preset = "genpercept-dept"', "There is no preset 'genpercept-dept': did you mean"),
    "data without a folder": ("[[data]]\nweight = 1.0", "data.0 lacks root."),
    "data without weight": ('[[data]]\nroot = "a"\nweight = 0.0', "weight = 0 of a is not above 0."),
    "no TOML": ("steps = = 3", "is not TOML"),
    "a section for a value": ("[steps]\na = 1", "expected a whole number"),
    "a value for a section": ("optimiser = 3", "optimiser is 3: expected a table, [optimiser]."),
}


@pytest.mark.parametrize(("text", "sentence"), WRONG.values(), ids=WRONG)
def test_a_wrong_config_is_refused_in_one_line_with_exit_code_2(tmp_path, capsys, text, sentence):
    assert main(["train", str(written(tmp_path, text))]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_the_presets_are_listed_with_what_they_are(capsys):
    assert main(["train", "--presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*PRESETS]
    assert all(line.endswith(row.title) for line, row in zip(lines, PRESETS.values(), strict=True))


def test_recipe_fields_are_set_as_predict_sets_them(capsys):
    assert main(["train", "--set", "steps=4", "--set", "axes=left,up,back", "--print-config"]) == 0
    assert '[recipe]\nsteps = 4\naxes = ["left", "up", "back"]' in capsys.readouterr().out
    assert main(["train", "--set", "stpes=4"]) == 2
    assert "did you mean 'steps'" in capsys.readouterr().err


def test_folders_on_the_command_line_stand_in_place_of_the_files(tmp_path, capsys):
    path = written(tmp_path, '[[data]]\nroot = "a"\n[[data]]\nroot = "b"\n')
    assert main(["train", str(path), "--data", "c", "--validation", "d", "--print-config"]) == 0
    found = read(written(tmp_path, capsys.readouterr().out))
    assert ([source.root for source in found.data], [source.root for source in found.validation]) == (["c"], ["d"])


def test_a_flag_for_a_section_that_is_none_is_refused(tmp_path, capsys):
    assert main(["train", str(written(tmp_path, "optimiser = 3")), "--lr", "1e-4"]) == 2
    assert "optimiser is 3: expected a table" in capsys.readouterr().err


def test_a_missing_config_is_refused(tmp_path, capsys):
    assert main(["train", str(tmp_path / "none.toml")]) == 2
    assert "There is no config" in capsys.readouterr().err


def test_a_misspelt_flag_is_told_the_nearest(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--stpes", "3"])
    assert "did you mean --steps?" in capsys.readouterr().err


def test_both_spellings_of_a_flag_are_understood():
    for flags in (["--batch-size", "3"], ["--batch_size=3"]):
        with pytest.raises(ConfigError, match="Nothing says what to learn"):
            raise_of(flags)


def raise_of(flags):
    from diffusion_perception.trainer.cli import parser

    arguments = parser().parse_args(["train", *flags])
    assert vars(arguments)["batch_size"] == "3"
    arguments.run(arguments)


def test_reading_configs_needs_no_heavy_package():
    """--help and --print-config answer at once."""
    heavy = "{'torch', 'diffusers', 'accelerate', 'transformers', 'numpy'}"
    code = f"import sys, diffusion_perception.trainer.config; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
