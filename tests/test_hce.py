"""Human correction efforts: counted by hand on small drawings, and as PySODMetrics counts them."""

import cv2
import numpy as np
import pytest
import torch

from diffusion_perception.trainer.hce import HCE

pytest.importorskip("skimage")
H, W = 90, 70


def efforts(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Of masks (H, W) in [0, 1]."""
    p, y = (torch.from_numpy(mask.astype(np.float64))[None, None] for mask in (prediction, truth))
    return HCE(p, y, torch.ones_like(p, dtype=torch.bool))


def box(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[top:bottom, left:right] = True
    return mask


def test_a_perfect_mask_and_one_that_errs_by_a_few_pixels_along_its_edge_need_no_work():
    truth = box(20, 70, 15, 55)
    assert efforts(truth, truth) == 0
    assert efforts(box(18, 72, 13, 57), truth) == 0
    assert efforts(box(23, 67, 18, 52), truth) == 0


def test_a_region_far_from_the_object_is_one_click():
    truth = box(5, 40, 5, 40)
    assert efforts(truth | box(55, 85, 20, 60), truth) == 1
    assert efforts(truth | box(55, 85, 5, 30) | box(55, 85, 40, 68), truth) == 2


def test_what_is_attached_costs_the_points_of_the_line_that_cuts_it_off():
    truth = box(5, 40, 10, 60)
    # one straight cut has two ends
    assert efforts(truth | box(40, 80, 20, 50), truth) == 2


def test_a_hole_in_what_was_found_is_drawn_or_clicked():
    truth = box(5, 85, 5, 65)
    hole = truth & ~box(25, 65, 20, 50)
    assert efforts(hole, truth) > 0


@pytest.mark.parametrize("seed", range(6))
def test_it_counts_as_pysodmetrics_counts(seed):
    oracle = pytest.importorskip("py_sod_metrics").HumanCorrectionEffortMeasure()
    draw = np.random.default_rng(seed)
    soft = cv2.GaussianBlur(draw.random((H, W)), (0, 0), draw.uniform(0.7, 6))
    truth = soft > np.quantile(soft, draw.uniform(0.2, 0.8))
    errs = cv2.GaussianBlur(draw.random((H, W)), (0, 0), 3) - 0.5
    levels = ((soft + errs * draw.uniform(0, 3)).clip(0, 1) * 255).astype(np.uint8)
    oracle.step(levels, truth.astype(np.uint8) * 255)
    assert efforts(levels / 255, truth) == oracle.get_results()["hce"]
