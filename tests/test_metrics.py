"""Metrics: what papers define, pixel by pixel, and sums that add up."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_perception.core.measure import metrics
from diffusion_perception.core.measure.metrics import METRICS
from diffusion_perception.core.measure.whdr import WHDR

H, W = 24, 20
DEPTH = ("abs-rel", "sq-rel", "rmse", "rmse-log", "log10", "delta1", "delta2", "delta3", "i-rmse", "silog")
NORMALS = tuple(name for name in METRICS if "angle" in name)
MASKS = ("max-f", "weighted-f", "mae", "s-measure", "e-measure", "iou")
CLASSES = ("miou", "pixel-accuracy", "mean-accuracy")
PEOPLE = ("pck", "pck-0.1", "oks")
COLOURS = ("lmse", "psnr", "ssim", "mse", "l1", "colour-angle")
# 255 of 256 thresholds are perfect, and sums over N pixels are divided by N - 1
LOOSE = {"e-measure": 0.01}


@pytest.fixture(params=METRICS.values(), ids=list(METRICS))
def metric(request):
    return request.param


def random(shape, seed):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def blob(batch, seed):
    """A disc somewhere, per image."""
    rows, columns = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    centres = 6 + 8 * random((batch, 2), seed)
    far = (rows - centres[:, :1, None]) ** 2 + (columns - centres[:, 1:, None]) ** 2
    return (far < 30).double().unsqueeze(1)


def people(batch, seed):
    """Heatmaps of 17 keypoints, the last three not labelled."""
    draw = torch.Generator().manual_seed(seed)
    maps = torch.zeros(batch, 17, H, W, dtype=torch.float64)
    for image in maps:
        for keypoint in image[:14]:
            row, column = torch.randint(0, H, (1,), generator=draw), torch.randint(0, W, (1,), generator=draw)
            keypoint[row, column] = 1
    return maps


def sample(name, batch=3, seed=0):
    """A prediction that errs, a target, a mask that leaves something out."""
    valid = random((batch, 1, H, W), seed + 9) < 0.9
    if name in DEPTH:
        target = 0.5 + 9 * random((batch, 1, H, W), seed)
        return target * (0.4 + 1.8 * random(target.shape, seed + 1)), target, valid
    if name in NORMALS:
        target = torch.nn.functional.normalize(random((batch, 3, H, W), seed) - 0.5, dim=1)
        return target + 1.2 * (random(target.shape, seed + 1) - 0.5), target, valid
    if name in CLASSES:
        target = (5 * random((batch, 1, H, W), seed)).floor()
        return torch.where(random(target.shape, seed + 1) < 0.3, (target + 1) % 7, target), target, valid
    if name in PEOPLE:
        target = people(batch, seed)
        moved = torch.where(random((batch, 17, 1, 1), seed + 1) < 0.5, people(batch, seed + 2), target)
        return moved + 0.5 * random(target.shape, seed + 3), target, torch.ones_like(valid)
    if name in COLOURS:
        target = random((batch, 3, H, W), seed)
        return (target + 0.3 * (random(target.shape, seed + 1) - 0.5)).clamp(0, 1), target, valid
    target = blob(batch, seed)
    if name not in MASKS:  # a soft edge
        target = torch.nn.functional.avg_pool2d(target, 3, 1, 1)
    return 0.35 * target + 0.65 * random(target.shape, seed + 1), target, valid


def per_image(number, prediction, target, valid):
    """The mean over images of a function of an image's valid values."""
    where = valid.expand_as(target).numpy()
    pairs = zip(prediction.numpy(), target.numpy(), where)
    return np.mean([number(p[v], y[v]) for p, y, v in pairs])


# What every metric holds


def test_a_perfect_prediction_scores_the_perfect_value(metric):
    _, target, valid = sample(metric.name)
    assert metric(target, target, valid) == pytest.approx(metric.perfect, abs=LOOSE.get(metric.name, 2e-6))


def test_an_erring_prediction_scores_worse(metric):
    prediction, target, valid = sample(metric.name)
    score, perfect = metric(prediction, target, valid), metric(target, target, valid)
    assert metric.better(perfect, score)
    assert not metric.better(score, perfect)


def test_batches_and_processes_add_up_to_the_set(metric):
    prediction, target, valid = sample(metric.name, 4)
    valid[1] = False
    whole = metric(prediction, target, valid)
    pieces = [metric.measure(prediction[i], target[i], valid[i]) for i in (slice(0, 1), slice(1, 2), slice(2, 4))]
    assert metric.value(pieces[0] + pieces[1] + pieces[2]) == pytest.approx(whole, rel=1e-12)


def test_averaging_is_per_image_or_over_the_set_as_the_row_says(metric):
    prediction, target, valid = sample(metric.name, 2)
    valid[1, :, : H // 2] = False
    if metric.name in PEOPLE:
        valid[:] = True
        target[1, 3:] = 0
    alone = [metric(prediction[i : i + 1], target[i : i + 1], valid[i : i + 1]) for i in range(2)]
    both = metric(prediction, target, valid)
    if metric.name != "max-f":  # of which the curves are averaged, not their maxima
        assert (both == pytest.approx(np.mean(alone), rel=1e-9)) == (metric.per == "image")


def test_what_is_not_valid_does_not_matter(metric):
    prediction, target, valid = sample(metric.name)
    valid[:, :, 3:9, 4:8] = False
    score = metric(prediction, target, valid)
    garbage = torch.tensor(math.nan if metric.name not in CLASSES else 99.0, dtype=torch.float64)
    spoiled = (torch.where(valid, prediction, garbage), torch.where(valid, target, garbage), valid)
    assert metric(*spoiled) == score


def test_nothing_measured_is_not_a_number(metric):
    prediction, target, valid = sample(metric.name)
    if metric.name in PEOPLE:
        target = torch.zeros_like(target)
    assert math.isnan(metric(prediction, target, valid & False))


def test_float32_scores_as_float64_does(metric):
    prediction, target, valid = sample(metric.name)
    single = metric(prediction.float(), target.float(), valid)
    assert single == pytest.approx(metric(prediction, target, valid), rel=1e-3)


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(["target", "constant", "zero", "swapped", "huge"]),
    pixels=st.sampled_from(["one", "column", "all"]),
    seed=st.integers(0, 50),
)
@pytest.mark.parametrize("name", METRICS)
def test_a_measured_score_is_a_number_in_its_bounds(name, kind, pixels, seed):
    prediction, target, valid = sample(name, 2, seed)
    odd = {"target": target, "constant": target * 0 + 0.5, "zero": target * 0, "swapped": target.flip(0)}
    prediction = odd.get(kind, prediction * 1e30)
    if name in CLASSES:
        prediction = prediction.clamp(0, 200).floor()
    if pixels != "all":
        valid = torch.zeros_like(valid)
        valid[0, 0, H // 2 : (H // 2 + 1 if pixels == "one" else H), W // 2] = True
    score = METRICS[name](prediction, target, valid)
    # no object, no keypoint or no light in what is left: nothing to measure
    if not math.isnan(score):
        worst, best = sorted((METRICS[name].perfect, -math.inf if METRICS[name].higher else math.inf))
        assert worst - 0.01 <= score <= best + (1 if name == "e-measure" else 1e-6)


def test_shapes_that_would_broadcast_are_refused(metric):
    prediction, target, valid = sample(metric.name)
    with pytest.raises(ValueError, match=r"give \(B, C, H, W\)"):
        metric(prediction[:1], target, valid)


def test_any_number_beats_nan_and_direction_decides():
    error, share = METRICS["abs-rel"], METRICS["delta1"]
    assert error.better(0.1, 0.2)
    assert share.better(0.2, 0.1)
    assert error.better(9.0, math.nan)
    assert not error.better(math.nan, 9.0)
    assert not share.better(0.1, 0.1)


# Depth


DEPTH_FORMULAS = {
    "abs-rel": lambda p, y: np.mean(np.abs(p - y) / y),
    "sq-rel": lambda p, y: np.mean((p - y) ** 2 / y),
    "rmse": lambda p, y: np.sqrt(np.mean((p - y) ** 2)),
    "rmse-log": lambda p, y: np.sqrt(np.mean((np.log(p) - np.log(y)) ** 2)),
    "log10": lambda p, y: np.mean(np.abs(np.log10(p / y))),
    "delta1": lambda p, y: np.mean(np.maximum(p / y, y / p) < 1.25),
    "delta2": lambda p, y: np.mean(np.maximum(p / y, y / p) < 1.5625),
    "delta3": lambda p, y: np.mean(np.maximum(p / y, y / p) < 1.953125),
    "i-rmse": lambda p, y: np.sqrt(np.mean((1 / p - 1 / y) ** 2)),
    "silog": lambda p, y: 100 * np.sqrt(np.mean(np.log(p / y) ** 2) - np.mean(np.log(p / y)) ** 2),
}


@pytest.mark.parametrize("name", DEPTH)
def test_depth_errors_are_the_papers_formulas(name):
    tensors = sample(name)
    assert METRICS[name](*tensors) == pytest.approx(per_image(DEPTH_FORMULAS[name], *tensors), rel=1e-10)


def test_silog_forgives_a_factor():
    prediction, target, valid = sample("silog")
    assert METRICS["silog"](prediction * 3, target, valid) == pytest.approx(METRICS["silog"](prediction, target, valid))


def test_a_predicted_depth_of_zero_counts_as_a_micrometre():
    target, valid = torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2, dtype=torch.bool)
    assert METRICS["log10"](target * 0, target, valid) == pytest.approx(6)
    assert METRICS["i-rmse"](target * -5, target, valid) == pytest.approx(1e6, rel=1e-5)


@pytest.mark.parametrize("name", DEPTH)
def test_depth_is_compared_only_where_the_truth_is_positive(name):
    prediction, target, valid = sample(name)
    target[:, :, :5] = 0
    expected = per_image(DEPTH_FORMULAS[name], prediction, target, valid & (target > 0))
    assert METRICS[name](prediction, target, valid) == pytest.approx(expected, rel=1e-10)


# Normals


def angles_of(prediction, target, valid):
    """Per image, in degrees, by the law of cosines on unit vectors."""
    found = []
    for p, y, v in zip(prediction.numpy(), target.numpy(), valid[:, 0].numpy()):
        p, y = p[:, v], y[:, v]
        chord = np.linalg.norm(p / np.linalg.norm(p, axis=0) - y / np.linalg.norm(y, axis=0), axis=0)
        found.append(np.degrees(2 * np.arcsin(chord / 2)))
    return found


NORMAL_FORMULAS = {
    "mean-angle": np.mean,
    "median-angle": np.median,
    "rmse-angle": lambda a: np.sqrt(np.mean(a**2)),
    **{f"angle-{t}": (lambda a, t=t: 100 * np.mean(a < t)) for t in (5, 7.5, 11.25, 22.5, 30)},
}


@pytest.mark.parametrize("name", NORMAL_FORMULAS)
def test_angles_are_pooled_over_the_set_or_averaged_over_images(name):
    prediction, target, valid = sample(name)
    valid[0, :, 4:] = False
    found = angles_of(prediction, target, valid)
    pooled, expected, slack = np.concatenate(found), NORMAL_FORMULAS[name](np.concatenate(found)), 1e-7
    if name == "median-angle":  # the lower one, read from bins of 0.01 degrees
        expected, slack = np.sort(pooled)[(len(pooled) - 1) // 2], 0.0051
    assert METRICS[name](prediction, target, valid) == pytest.approx(expected, abs=slack)
    by_image = METRICS[f"{name}-per-image"](prediction, target, valid)
    assert by_image == pytest.approx(np.mean([NORMAL_FORMULAS[name](a) for a in found]), abs=1e-7)


def test_a_known_angle_reads_right_whatever_the_length():
    target = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1)
    valid = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    for angle in (0.0, 10.0, 90.0, 180.0):
        turned = torch.tensor([math.sin(math.radians(angle)), 0.0, math.cos(math.radians(angle))]).view(1, 3, 1, 1)
        assert METRICS["mean-angle"](7 * turned, target, valid) == pytest.approx(angle, abs=1e-4)
    assert METRICS["mean-angle"](torch.zeros(1, 3, 1, 1), target, valid) == pytest.approx(90)


def test_a_true_normal_of_length_zero_is_not_counted():
    prediction, target, valid = sample("mean-angle")
    expected = METRICS["mean-angle"](prediction[:, :, 4:], target[:, :, 4:], valid[:, :, 4:])
    target[:, :, :4] = 0
    assert METRICS["mean-angle"](prediction, target, valid) == pytest.approx(expected, rel=1e-12)


# Masks


def stretched(p):
    return (p - p.min()) / (p.max() - p.min())


def test_max_f_is_the_best_of_the_mean_curve():
    prediction, target, valid = sample("max-f")
    curves = []
    for p, y, v in zip(prediction.numpy(), target.numpy(), valid.numpy()):
        levels, truth = np.floor(stretched(p[v]) * 255), y[v] > 0.5
        curve = []
        for threshold in range(256):
            chosen = levels >= threshold
            hits = (chosen & truth).sum()
            precision, recall = hits / max(chosen.sum(), 1), hits / truth.sum()
            curve.append(1.3 * precision * recall / (0.3 * precision + recall) if hits else 0)
        curves.append(curve)
    assert METRICS["max-f"](prediction, target, valid) == pytest.approx(np.mean(curves, 0).max(), rel=1e-10)


BYTES = np.arange(256, dtype=np.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_grey_truth_is_cut_where_the_published_code_cuts_its_bytes(dtype):
    """PySODMetrics compares bytes: object where > 128. Here is each level once."""
    truth = (BYTES > 128).reshape(1, 1, 16, 16)
    target = torch.from_numpy(BYTES.reshape(1, 1, 16, 16)).to(dtype) / 255
    valid, seen = torch.ones(1, 1, 16, 16, dtype=torch.bool), torch.from_numpy(truth).to(dtype)
    assert METRICS["mae"](seen, target, valid) == 0
    assert METRICS["iou"](seen, target, valid) == 1
    assert METRICS["max-f"](seen, target, valid) == 1
    assert METRICS["s-measure"](seen, target, valid) == pytest.approx(METRICS["s-measure"](seen, seen, valid))


def test_mae_is_of_the_stretched_mask_and_mad_of_the_values_as_they_come():
    tensors = sample("mae")
    assert METRICS["mae"](*tensors) == pytest.approx(per_image(lambda p, y: np.abs(stretched(p) - y).mean(), *tensors))
    assert METRICS["mad"](*tensors) == pytest.approx(per_image(lambda p, y: np.abs(p - y).mean(), *tensors))


def on_background(prediction, target, valid):
    p = np.zeros((H, W))
    p[valid] = stretched(prediction[valid])
    return p, (target > 0.5) & valid


def slow_weighted_f(p, truth):
    objects = np.argwhere(truth)
    error = np.abs(p - truth)
    distance, moved = np.zeros((H, W)), error.copy()
    for i, j in np.ndindex(H, W):
        if not truth[i, j]:
            far = np.hypot(*(objects - (i, j)).T)
            distance[i, j] = far.min()
            # of several nearest pixels any may be meant: these tests have equal errors there
            moved[i, j] = error[tuple(objects[far.argmin()])]
    bell = np.exp(-(np.arange(-3, 4) ** 2) / 50)
    kernel = np.outer(bell, bell) / bell.sum() ** 2
    padded, smooth = np.pad(moved, 3), np.zeros((H, W))
    for i, j in np.ndindex(H, W):
        smooth[i, j] = (padded[i : i + 7, j : j + 7] * kernel).sum()
    error = np.where(truth & (smooth < error), smooth, error)
    weighted = error * np.where(truth, 1, 2 - 0.5 ** (distance / 5))
    hits = (1 - weighted[truth]).sum()
    precision, recall = hits / (hits + weighted[~truth].sum()), 1 - weighted[truth].mean()
    return 2 * precision * recall / (precision + recall)


def test_weighted_f_weighs_errors_by_distance():
    prediction, target, valid = sample("weighted-f")
    prediction = torch.where(target > 0.5, 0.8, 0.5 * prediction)  # equal errors inside, hence no ties between them
    prediction[:, :, 0, 0], prediction[:, :, 0, 1] = 0, 1
    valid[:] = True
    expected = [
        slow_weighted_f(*on_background(p, y, v))
        for p, y, v in zip(prediction[:, 0].numpy(), target[:, 0].numpy(), valid[:, 0].numpy())
    ]
    assert METRICS["weighted-f"](prediction, target, valid) == pytest.approx(np.mean(expected), rel=1e-9)


def slow_s_measure(p, truth):
    def like_one(values):
        return 2 * values.mean() / (values.mean() ** 2 + 1 + np.std(values, ddof=1))

    def similarity(x, y):
        if x.mean() ** 2 + y.mean() ** 2 == 0 or x.var() + y.var() == 0:
            return 1.0 if x.mean() * y.mean() == 0 or x.var() + y.var() == 0 else 0.0
        cov = np.cov(x.ravel(), y.ravel())
        top = 4 * x.mean() * y.mean() * cov[0, 1]
        return top / ((x.mean() ** 2 + y.mean() ** 2) * (cov[0, 0] + cov[1, 1])) if top else 0.0

    share = truth.mean()
    objects = share * like_one(p[truth]) + (1 - share) * like_one(1 - p[~truth])
    row, column = np.round(np.argwhere(truth).mean(0)).astype(int) + 1
    regions = 0.0
    for rows in (slice(0, row), slice(row, H)):
        for columns in (slice(0, column), slice(column, W)):
            x, y = p[rows, columns], truth[rows, columns].astype(float)
            regions += x.size / truth.size * similarity(x, y)
    return 0.5 * objects + 0.5 * regions


def test_s_measure_is_half_objects_half_regions():
    prediction, target, valid = sample("s-measure")
    expected = [
        slow_s_measure(*on_background(p, y, v))
        for p, y, v in zip(prediction[:, 0].numpy(), target[:, 0].numpy(), valid[:, 0].numpy())
    ]
    assert METRICS["s-measure"](prediction, target, valid) == pytest.approx(np.mean(expected), rel=1e-9)


def slow_e_measure(values, truth):
    scores = []
    for threshold in range(256):
        mask = np.floor(stretched(values) * 255) >= threshold
        a, b = mask - mask.mean(), truth - truth.mean()
        alignment = 2 * a * b / (a**2 + b**2 + 2.0**-52)
        scores.append(((1 + alignment) ** 2 / 4).sum() / (truth.size - 1))
    return np.mean(scores)


def test_e_measure_averages_the_alignment_over_thresholds():
    tensors = sample("e-measure")
    expected = per_image(lambda p, y: slow_e_measure(p, y > 0.5), *tensors)
    assert METRICS["e-measure"](*tensors) == pytest.approx(expected, rel=1e-9)


def test_iou_pools_pixels_of_all_images():
    prediction, target, valid = sample("iou")
    one, other = (prediction > 0.5) & valid, (target > 0.5) & valid
    expected = (one & other).sum() / (one | other).sum()
    assert METRICS["iou"](prediction, target, valid) == pytest.approx(expected.item())


@pytest.mark.parametrize("name", ["s-measure", "e-measure", "weighted-f", "max-f"])
def test_images_all_object_or_all_background_have_a_score(name):
    valid = torch.ones(1, 1, H, W, dtype=torch.bool)
    prediction = random((1, 1, H, W), 0)
    share = stretched(prediction).mean().item()
    for truth, expected in ((0.0, 1 - share), (1.0, share)):
        score = METRICS[name](prediction, torch.full_like(prediction, truth), valid)
        assert 0 <= score <= 1
        if name in ("s-measure", "e-measure"):  # the latter rounds to 255 levels and divides by N - 1
            assert score == pytest.approx(expected, abs=0.005)


# Mattes


def test_sad_and_mse_of_mattes():
    tensors = sample("sad")
    assert METRICS["sad"](*tensors) == pytest.approx(per_image(lambda p, y: np.abs(p - y).sum() / 1000, *tensors))
    assert METRICS["mse"](*tensors) == pytest.approx(per_image(lambda p, y: np.mean((p - y) ** 2), *tensors))


def slow_steepness(matte):
    sigma = 1.4
    half = int(np.ceil(sigma * np.sqrt(-2 * np.log(np.sqrt(2 * np.pi) * sigma * 0.01))))
    kernel = np.zeros((2 * half + 1, 2 * half + 1))
    for i, j in np.ndindex(kernel.shape):
        u, v = i - half, j - half
        kernel[i, j] = np.exp(-(u**2) / (2 * sigma**2)) * -v * np.exp(-(v**2) / (2 * sigma**2))
    kernel /= np.sqrt((kernel**2).sum())
    padded, steepness = np.pad(matte, half, mode="edge"), np.zeros((H, W))
    for i, j in np.ndindex(H, W):
        patch = padded[i : i + 2 * half + 1, j : j + 2 * half + 1]
        steepness[i, j] = np.hypot((patch * kernel).sum(), (patch * kernel.T).sum())
    return steepness


def test_grad_compares_gaussian_gradients():
    prediction, target, valid = sample("grad")
    pairs = zip((prediction * valid)[:, 0].numpy(), (target * valid)[:, 0].numpy(), valid[:, 0].numpy())
    expected = np.mean([((slow_steepness(p) - slow_steepness(y)) ** 2)[v].sum() / 1000 for p, y, v in pairs])
    assert METRICS["grad"](prediction, target, valid) == pytest.approx(expected, rel=1e-9)


def largest_region(mask):
    """By flood fill over four neighbours."""
    best, seen = set(), set()
    for start in zip(*np.nonzero(mask)):
        if start in seen:
            continue
        region, todo = {start}, [start]
        while todo:
            i, j = todo.pop()
            for near in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
                if 0 <= near[0] < H and 0 <= near[1] < W and mask[near] and near not in region:
                    region.add(near)
                    todo.append(near)
        seen |= region
        best = max(best, region, key=len)
    return best


def slow_connectivity(p, y):
    level = np.full((H, W), -1.0)
    for step in range(1, 11):
        region = largest_region((p >= step / 10) & (y >= step / 10))
        for pixel in np.ndindex(H, W) if region else ():
            if level[pixel] == -1 and pixel not in region:
                level[pixel] = (step - 1) / 10
    level[level == -1] = 1
    phi = [1 - (matte - level) * (matte - level >= 0.15) for matte in (p, y)]
    return np.abs(phi[0] - phi[1])


def test_conn_punishes_what_hangs_loose():
    prediction, target, valid = sample("conn")
    pairs = zip((prediction * valid)[:, 0].numpy(), (target * valid)[:, 0].numpy(), valid[:, 0].numpy())
    expected = np.mean([slow_connectivity(p, y)[v].sum() / 1000 for p, y, v in pairs])
    assert METRICS["conn"](prediction, target, valid) == pytest.approx(expected, rel=1e-9)
    loose = target.clone()
    loose[:, :, 0, 0] = 1  # a speck far from the disc
    assert METRICS["conn"](loose, target, valid | True) == pytest.approx(0.001)


# Segmentation


def test_segmentation_scores_are_those_of_the_confusion_matrix():
    prediction, target, valid = sample("miou")
    p, y = prediction[valid].numpy(), target[valid].numpy()
    ious = [((p == k) & (y == k)).sum() / ((p == k) | (y == k)).sum() for k in np.union1d(p, y)]
    recalls = [(p == k)[y == k].mean() for k in np.unique(y)]
    assert METRICS["miou"](prediction, target, valid) == pytest.approx(np.mean(ious))
    assert METRICS["mean-accuracy"](prediction, target, valid) == pytest.approx(np.mean(recalls))
    assert METRICS["pixel-accuracy"](prediction, target, valid) == pytest.approx((p == y).mean())


def test_a_label_that_is_no_class_is_refused_unless_it_is_not_valid():
    prediction, target, valid = sample("miou")
    score = METRICS["miou"](prediction, target, valid)
    target = torch.where(valid, target, 300)
    assert METRICS["miou"](prediction, target, valid) == score
    with pytest.raises(ValueError, match="mark other labels as not valid"):
        METRICS["miou"](prediction, target, valid | True)


# Keypoints


def peak(heatmap):
    row, column = np.unravel_index(heatmap.argmax(), heatmap.shape)
    return np.array([column, row], dtype=float)


def test_pck_counts_keypoints_within_a_fifth_of_the_person():
    prediction, target, valid = sample("pck")
    hits = []
    for p, y in zip(prediction.numpy(), target.numpy()):
        truth = [peak(k) for k in y[:14]]
        size = np.ptp(truth, axis=0).max()
        hits += [np.linalg.norm(peak(k) - t) <= 0.2 * size for k, t in zip(p, truth)]
    assert METRICS["pck"](prediction, target, valid) == pytest.approx(np.mean(hits))


def slow_oks(points, truth, area):
    sigmas = [0.26, 0.25, 0.25, 0.35, 0.35, 0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89]
    scores = [
        math.exp(-((p - t) ** 2).sum() / (2 * area * (2 * sigma / 10) ** 2))
        for p, t, sigma in zip(points, truth, sigmas)
    ]
    return np.mean(scores)


def test_oks_is_cocos_similarity():
    prediction, target, valid = sample("oks")
    boxed, given_area = [], []
    for p, y in zip(prediction.numpy(), target.numpy()):
        points, truth = [peak(k) for k in p[:14]], [peak(k) for k in y[:14]]
        boxed.append(slow_oks(points, truth, 0.53 * np.ptp(truth, axis=0).prod()))
        given_area.append(slow_oks(points, truth, 123.0))
    assert METRICS["oks"](prediction, target, valid) == pytest.approx(np.mean(boxed), rel=1e-9)
    with_area = METRICS["oks"].value(metrics.oks(prediction, target, valid, area=torch.full((3,), 123.0)))
    assert with_area == pytest.approx(np.mean(given_area), rel=1e-9)


def test_oks_of_other_skeletons_is_refused():
    prediction, target, valid = sample("oks")
    with pytest.raises(ValueError, match="17 keypoints, got 14: use PCK"):
        METRICS["oks"](prediction[:, :14], target[:, :14], valid)


# Albedo and shading


@pytest.mark.parametrize("window", [20, 6, 1])
def test_lmse_scales_every_window_by_its_own_fit(window):
    prediction, target, valid = sample("lmse")
    step, expected = max(window // 2, 1), []
    for p, y in zip((prediction * valid).numpy(), (target * valid).numpy()):
        left = whole = 0.0
        for i in range(0, H - window + 1, step):
            for j in range(0, W - window + 1, step):
                a, b = (x[:, i : i + window, j : j + window].ravel() for x in (p, y))
                scale = np.linalg.lstsq(a[:, None], b, rcond=None)[0]
                left, whole = left + ((scale * a - b) ** 2).sum(), whole + (b**2).sum()
        expected.append(left / whole)
    score = METRICS["lmse"].value(metrics.lmse(prediction, target, valid, window))
    assert score == pytest.approx(np.mean(expected), rel=1e-9)
    assert METRICS["lmse"].value(metrics.lmse(prediction * 5, target, valid, window)) == pytest.approx(score)


def test_black_scores_an_lmse_of_one():
    _, target, valid = sample("lmse")
    assert METRICS["lmse"](target * 0, target, valid) == pytest.approx(1)


def test_psnr_is_in_decibels():
    tensors = sample("psnr")
    expected = per_image(lambda p, y: 10 * np.log10(1 / np.mean((p - y) ** 2)), *tensors)
    assert METRICS["psnr"](*tensors) == pytest.approx(expected, rel=1e-10)


def test_ssim_is_wangs():
    prediction, target, valid = sample("ssim")
    bell = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(bell, bell) / bell.sum() ** 2
    expected = []
    for p, y, v in zip((prediction * valid).numpy(), (target * valid).numpy(), valid[:, 0].numpy()):
        scores = []
        for i in range(5, H - 5):
            for j in range(5, W - 5):
                for a, b in zip(p, y) if v[i, j] else ():
                    a, b = (x[i - 5 : i + 6, j - 5 : j + 6] for x in (a, b))
                    ma, mb = (a * window).sum(), (b * window).sum()
                    va, vb = ((a - ma) ** 2 * window).sum(), ((b - mb) ** 2 * window).sum()
                    cov = ((a - ma) * (b - mb) * window).sum()
                    top = (2 * ma * mb + 1e-4) * (2 * cov + 9e-4)
                    scores.append(top / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
        expected.append(np.mean(scores))
    assert METRICS["ssim"](prediction, target, valid) == pytest.approx(np.mean(expected), rel=1e-9)


def test_small_images_have_an_ssim_and_an_lmse():
    for height, width in ((1, 1), (2, 5), (10, 10)):
        target = random((1, 3, height, width), 0)
        valid = torch.ones(1, 1, height, width, dtype=torch.bool)
        assert METRICS["ssim"](target, target, valid) == pytest.approx(1)
        assert METRICS["lmse"](target, target, valid) == pytest.approx(0, abs=1e-12)


# DMP's, and people's judgements


def test_the_angle_of_colours_is_dmps_and_not_that_of_normals():
    draw = np.random.default_rng(3)
    p, y = draw.uniform(0, 1, (2, 3, H, W)), draw.uniform(0, 1, (2, 3, H, W))
    cosine = (p * y).sum(1) / np.sqrt((p**2).sum(1) * (y**2).sum(1))
    found = METRICS["colour-angle"](torch.from_numpy(p), torch.from_numpy(y), torch.ones(2, 1, H, W, dtype=torch.bool))
    assert found == pytest.approx(np.arccos(np.clip(cosine, 0, 1)).mean(), abs=1e-9)
    straight, slanted = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, 0.5**0.5, 0.5**0.5])
    colours = [((normal + 1) / 2)[None, :, None, None] for normal in (straight, slanted)]
    assert METRICS["colour-angle"](*colours, torch.ones(1, 1, 1, 1, dtype=torch.bool)) == pytest.approx(0.297, abs=1e-3)


def test_the_rmse_of_stretched_maps_forgives_scale_and_shift():
    prediction, target, valid = sample("mad")
    score = METRICS["stretched-rmse"]
    assert score(3 * target + 7, target, valid) == pytest.approx(0, abs=1e-12)
    assert score(3 * prediction + 7, target, valid) == pytest.approx(score(prediction, target, valid), rel=1e-12)

    def relative(p, y):
        (p, y) = ((x - x.min()) / np.ptp(x) for x in (p, y))
        return np.sqrt(np.mean((p - y) ** 2))

    assert score(prediction, target, valid) == pytest.approx(per_image(relative, prediction, target, valid), rel=1e-9)


def test_l1_is_the_mean_of_absolute_differences():
    prediction, target, valid = sample("l1")
    expected = per_image(lambda p, y: np.abs(p - y).mean(), prediction, target, valid)
    assert METRICS["l1"](prediction, target, valid) == pytest.approx(expected, rel=1e-12)


def judgements(*rows):
    """(y1, x1, y2, x2, who is darker, weight) each -> a target of whdr and where it is one."""
    return torch.tensor(rows, dtype=torch.float64).T[None, ..., None], torch.ones(1, 1, len(rows), 1, dtype=torch.bool)


def test_whdr_counts_what_people_say_against_a_tenth_of_difference():
    light = torch.full((1, 3, 10, 20), 0.5, dtype=torch.float64)
    light[..., 10:] = 0.56  # the right half is 12 % lighter
    right = (0.5, 0.2, 0.5, 0.8, 1, 1.0)  # the left point is darker
    equal = (0.5, 0.2, 0.1, 0.3, 0, 2.0)
    wrong = (0.5, 0.8, 0.5, 0.2, 0, 3.0)  # they look the same to people
    assert WHDR(light, *judgements(right, equal)) == 0
    assert WHDR(light, *judgements(right, equal, wrong)) == pytest.approx(3 / 6)
    light[..., 10:] = 0.54  # 8 % are no difference
    assert WHDR(light, *judgements(right, equal, wrong)) == pytest.approx(1 / 6)
    # the mean over channels, and the mean over pictures
    light[:, 0] *= 2
    both = [torch.cat([one, other]) for one, other in zip(judgements(right), judgements(equal))]
    assert WHDR(light.expand(2, -1, -1, -1), *both) == pytest.approx(1 / 2)


def test_points_at_the_edge_and_reflectance_of_zero_are_judged():
    dark = torch.zeros(1, 1, 4, 4)
    assert WHDR(dark, *judgements((1.0, 1.0, 0.0, 0.0, 0, 1.0))) == 0
    assert math.isnan(WHDR(dark, *judgements((0.5, 0.5, 0.5, 0.5, 0, 0.0))))
