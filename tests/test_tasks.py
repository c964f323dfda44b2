"""The table of tasks says the same thing everywhere it is read."""

from __future__ import annotations

import pytest

from diffusion_perception.core.codecs import CODECS
from diffusion_perception.core.display.picture import MASKS, PICTURES
from diffusion_perception.core.display.selection import SELECTORS
from diffusion_perception.core.ensemble import MERGES
from diffusion_perception.core.measure.align import ALIGNMENTS
from diffusion_perception.core.measure.losses import LOSSES
from diffusion_perception.core.measure.metrics import METRICS
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.core.tasks import TASKS, task_named, tasks_where
from diffusion_perception.trainer.data.tasks import TASK_DATA, data_of
from diffusion_perception.trainer.data.truth import DatasetError


@pytest.fixture(params=TASKS.values(), ids=list(TASKS))
def task(request):
    return request.param


def test_every_task_is_found_by_its_name_and_by_every_other_name_it_has(task):
    assert [task_named(name) for name in (task.name, *task.aliases)] == [task] * (1 + len(task.aliases))


def test_the_trainer_knows_how_each_task_is_learnt_and_no_other():
    assert set(TASK_DATA) == set(TASKS)
    assert all(name == row.name for table in (TASKS, TASK_DATA) for name, row in table.items())


def test_a_task_is_learnt_from_a_folder_unless_it_is_of_people(task):
    assert bool(TASK_DATA[task.name].folders) == (task.per == "image")


def test_no_two_tasks_share_a_name():
    names = [name for task in TASKS.values() for name in (task.name, *task.aliases)]
    assert len(names) == len(set(names))


def test_every_task_has_a_codec_and_a_merge_that_exist(task):
    assert task.codec in CODECS
    assert task.merge in MERGES


def test_every_task_has_a_picture_a_mask_losses_and_metrics_that_exist(task):
    assert task.picture in PICTURES
    assert task.mask in MASKS
    assert task.selector in ("", *SELECTORS)
    assert task.align in ALIGNMENTS
    assert {*task.losses} <= {*LOSSES}
    assert {*task.metrics} <= {*METRICS}


def test_only_a_map_of_one_channel_can_be_a_mask(task):
    assert task.socket == "image" or task.channels == 1


def test_only_a_map_of_a_person_has_as_many_channels_as_its_skeleton_has_names(task):
    recipe = Recipe(task.name, keypoints="nose,left_ear,right_ear")
    person = task.per == "person"
    assert recipe.channels == (3 if person else task.channels)
    assert (recipe.convention().skeleton is not None) == person == (task.name == "keypoints")


def test_names_of_the_published_code_mean_our_tasks():
    published = {"dis": "mask", "matting": "matte", "seg": "segmentation", "normals": "normal"}
    assert {name: task_named(name).name for name in published} == published


def test_an_unknown_task_is_refused_with_the_list_of_known_ones():
    with pytest.raises(ValueError, match="'dept'.*depth, disparity, normal.*check the spelling"):
        task_named("dept")


def test_tasks_are_told_apart_by_what_their_rows_say():
    assert tasks_where(picture="nearness") == ("depth", "disparity")
    assert set(tasks_where(selector="level", mask="level")) >= {"mask", "matte"}
    assert tasks_where(picture="smoke") == ()


def test_a_task_that_nobody_has_said_how_to_learn_is_refused_with_those_that_are():
    with pytest.raises(DatasetError, match="no truth for the task 'dept': take one of depth, disparity"):
        data_of("dept")
