"""Metrics against other people's code, to 1e-6: PySODMetrics for masks, scikit-image for light.

PySODMetrics is no requirement of the tests, for it asks for an OpenCV of its own: `pip install --no-deps pysodmetrics`.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from diffusion_perception.core.measure.metrics import METRICS

H, W = 64, 80


def masks(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A soft mask and its truth, as bytes."""
    draw = np.random.default_rng(seed)
    soft = cv2.GaussianBlur(draw.random((H, W)), (0, 0), draw.uniform(3, 8))
    truth = soft > np.quantile(soft, draw.uniform(0.3, 0.8))
    errs = cv2.GaussianBlur(draw.random((H, W)), (0, 0), 4) - 0.5
    stretched = (soft - soft.min()) / np.ptp(soft)
    return ((stretched + errs).clip(0, 1) * 255).astype(np.uint8), truth.astype(np.uint8) * 255


def score(name: str, prediction: np.ndarray, truth: np.ndarray) -> float:
    """Of one picture (H, W) or (H, W, 3) in [0, 1]."""
    p, y = (
        torch.from_numpy(np.atleast_3d(each).astype(np.float64)).movedim(-1, 0)[None] for each in (prediction, truth)
    )
    return METRICS[name](p, y, torch.ones(1, 1, *p.shape[-2:], dtype=torch.bool))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("name", "oracle", "read"),
    [
        ("mae", "MAE", lambda found: found["mae"]),
        ("weighted-f", "WeightedFmeasure", lambda found: found["wfm"]),
        ("s-measure", "Smeasure", lambda found: found["sm"]),
        ("max-f", "Fmeasure", lambda found: found["fm"]["curve"].max()),
        ("e-measure", "Emeasure", lambda found: found["em"]["curve"].mean()),
    ],
)
def test_masks_are_measured_as_pysodmetrics_measures_them(name, oracle, read, seed):
    other = getattr(pytest.importorskip("py_sod_metrics"), oracle)()
    prediction, truth = masks(seed)
    other.step(prediction, truth)
    assert score(name, prediction / 255, truth / 255) == pytest.approx(read(other.get_results()), abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_light_is_measured_as_scikit_image_measures_it(seed):
    metrics = pytest.importorskip("skimage.metrics")
    draw = np.random.default_rng(seed)
    truth = cv2.GaussianBlur(draw.random((H, W, 3)), (0, 0), 2)
    prediction = (truth + draw.normal(0, 0.05, truth.shape)).clip(0, 1)
    expected = metrics.peak_signal_noise_ratio(truth, prediction, data_range=1)
    assert score("psnr", prediction, truth) == pytest.approx(expected, abs=1e-6)
    assert score("mse", prediction, truth) == pytest.approx(metrics.mean_squared_error(truth, prediction), abs=1e-9)
    _, everywhere = metrics.structural_similarity(
        truth, prediction, data_range=1, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        full=True,
    )  # fmt: skip
    # where the window of 11 pixels fits into the picture
    assert score("ssim", prediction, truth) == pytest.approx(everywhere[5:-5, 5:-5].mean(), abs=1e-6)
