"""Metrics of dense maps as rows of a table: what to add up, how to finish, and which way is better.

`measure` maps prediction, target (B, C, H, W) and valid (B, 1, H, W) bool to a Reduction, whose sums add up over
images, batches and processes; `value` makes the number of the whole set. Per image ("image"): the mean over images
that have something to measure of each image's own number. Over the set ("set"): every valid pixel of all images
counts the same. Everything is computed in float64 on the CPU. What lies where not valid is never read. Nothing
measured: NaN. Values are those of the tasks, decoded: metres, vectors, [0, 1], class indices; never the codec's
[-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial, wraps
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..skeletons import COCO_SIGMAS
from .losses import Reduction, check_shapes

Measure = Callable[..., Reduction]

THRESHOLDS = 256
"""Levels at which a soft mask is cut."""
CUT = np.float32(128 / 255)
"""What of a target is above this is the object: the published evaluations of masks cut bytes at 128."""
BETA_SQUARED = 0.3
CLASSES = 256
"""Class indices that a confusion matrix can hold."""
ANGLE_STEP_DEG = 0.01
"""Width of the bins from which the median angle of a whole set is read."""
EPSILON = 2.0**-52


def over(numbers: list[Tensor], size: int = 1) -> Reduction:
    """Per-image numbers (size,) -> their sum and count."""
    total = torch.stack(numbers).sum(0) if numbers else torch.zeros(size, dtype=torch.float64)
    return Reduction(total, torch.tensor([len(numbers)]))


def images(prediction: Tensor, target: Tensor, valid: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Each image (C, H, W) in float64 on the CPU, 0 where not valid; those without a valid pixel are left out."""
    check_shapes(prediction, target, valid)
    prediction, target, valid = (tensor.detach().cpu() for tensor in (prediction, target, valid))
    for p, y, v in zip(prediction.double(), target.double(), valid):
        if v.any():
            yield p.masked_fill(~v, 0), y.masked_fill(~v, 0), v


def _by_values(measure: Callable[..., Tensor]) -> Measure:
    """Per image: the mean over images of a function of an image's valid values (N,) and (N,)."""

    @wraps(measure)
    def measured(prediction: Tensor, target: Tensor, valid: Tensor) -> Reduction:
        values = [(p[v.expand_as(p)], y[v.expand_as(y)]) for p, y, v in images(prediction, target, valid)]
        return over([measure(p, y).reshape(1) for p, y in values])

    return measured


def _by_depths(measure: Callable[[Tensor, Tensor], Tensor]) -> Measure:
    """Like `_by_values`, where the target is positive, with predictions below 1e-6 counted as 1e-6."""
    values = _by_values(lambda p, y: measure(p.clamp(min=1e-6), y))

    @wraps(measure)
    def measured(prediction: Tensor, target: Tensor, valid: Tensor) -> Reduction:
        check_shapes(prediction, target, valid)
        return values(prediction, target, valid & (target > 0))

    return measured


def by_pictures(measure: Callable[[np.ndarray, np.ndarray, np.ndarray], float]) -> Measure:
    """Per image: the mean over images of a function of prediction, target and valid (H, W), averaged over channels."""

    @wraps(measure)
    def measured(prediction: Tensor, target: Tensor, valid: Tensor) -> Reduction:
        numbers = []
        for p, y, v in images(prediction, target, valid):
            channels = [measure(a.numpy(), b.numpy(), v[0].numpy()) for a, b in zip(p, y)]
            numbers.append(torch.tensor([np.mean(channels)], dtype=torch.float64))
        return over(numbers)

    return measured


@_by_depths
def _abs_rel(p: Tensor, y: Tensor) -> Tensor:
    """mean |p - y| / y (Eigen et al. 2014)."""
    return ((p - y).abs() / y).mean()


@_by_depths
def _sq_rel(p: Tensor, y: Tensor) -> Tensor:
    """mean (p - y)^2 / y (Eigen et al. 2014)."""
    return ((p - y).square() / y).mean()


@_by_depths
def rmse(p: Tensor, y: Tensor) -> Tensor:
    """sqrt mean (p - y)^2 (Eigen et al. 2014)."""
    return (p - y).square().mean().sqrt()


@_by_depths
def _rmse_log(p: Tensor, y: Tensor) -> Tensor:
    """sqrt mean (ln p - ln y)^2 (Eigen et al. 2014)."""
    return (p.log() - y.log()).square().mean().sqrt()


@_by_depths
def log10(p: Tensor, y: Tensor) -> Tensor:
    """mean |log10 p - log10 y| (Saxena et al. 2008)."""
    return (p.log10() - y.log10()).abs().mean()


def _delta(power: int) -> Measure:
    """Share of pixels with max(p / y, y / p) < 1.25^power (Ladicky et al. 2014)."""
    return _by_depths(lambda p, y: (torch.maximum(p / y, y / p) < 1.25**power).double().mean())


@_by_depths
def _i_rmse(p: Tensor, y: Tensor) -> Tensor:
    """sqrt mean (1 / p - 1 / y)^2 (Uhrig et al. 2017; per metre here, KITTI's tables are per kilometre)."""
    return (1 / p - 1 / y).square().mean().sqrt()


@_by_depths
def silog(p: Tensor, y: Tensor) -> Tensor:
    """100 sqrt(mean e^2 - (mean e)^2) of e = ln p - ln y (Eigen et al. 2014, as on KITTI)."""
    return 100 * (p.log() - y.log()).var(correction=0).sqrt()


@_by_values
def mean_squared_error(p: Tensor, y: Tensor) -> Tensor:
    """mean (p - y)^2."""
    return (p - y).square().mean()


@_by_values
def mad(p: Tensor, y: Tensor) -> Tensor:
    """mean |p - y|."""
    return (p - y).abs().mean()


@_by_values
def sad(p: Tensor, y: Tensor) -> Tensor:
    """sum |p - y| / 1000 of mattes in [0, 1] (Rhemann et al. 2009)."""
    return (p - y).abs().sum() / 1000


@_by_values
def psnr(p: Tensor, y: Tensor) -> Tensor:
    """10 log10(1 / mean (p - y)^2) in dB, for values in [0, 1]. A perfect image gives infinity."""
    return -10 * (p - y).square().mean().log10()


@_by_values
def _stretched_rmse(p: Tensor, y: Tensor) -> Tensor:
    """sqrt mean (p' - y')^2 with x' = (x - min x) / (max x - min x), a constant giving 0 (DMP's relative RMSE)."""
    spread = [(x - x.min()) / torch.where(x.max() > x.min(), x.max() - x.min(), 1) for x in (p, y)]
    return (spread[0] - spread[1]).square().mean().sqrt()


def _colour_angle(prediction: Tensor, target: Tensor, valid: Tensor) -> Reduction:
    """Mean angle in radians between colours (B, 3, H, W) in [0, 1] as vectors from black, per image (DMP's evaluation).

    Of pictures of normals this is not the angle between the normals: 45 degrees read as 0.297 rad or less. A black
    pixel is a right angle from anything.
    """
    numbers = []
    for p, y, v in images(prediction, target, valid):
        p, y = (F.normalize(colours[:, v[0]], dim=0, eps=1e-12) for colours in (p, y))
        numbers.append((p * y).sum(0).clamp(0, 1).acos().mean()[None])
    return over(numbers)


def angles(prediction: Tensor, target: Tensor, valid: Tensor) -> Iterator[Tensor]:
    """Per image, the angles (N,) in degrees between vectors of any length, both in the same axes.

    DSINE's error (Bae and Davison 2024). Targets of length 0 are not counted; a prediction of length 0 is 90
    degrees off.
    """
    for p, y, v in images(prediction, target, valid):
        known = v[0] & (y != 0).any(0)
        if known.any():
            p, y = (F.normalize(vectors[:, known], dim=0, eps=1e-300) for vectors in (p, y))
            yield (p * y).sum(0).clamp(-1, 1).acos().rad2deg()


def _by_angles(error: Callable[[Tensor], Tensor]) -> Measure:
    """Over the set: the mean over all pixels of a function of their angles (DSINE's protocol)."""

    def measured(prediction: Tensor, target: Tensor, valid: Tensor) -> Reduction:
        every = torch.cat([torch.zeros(0, dtype=torch.float64), *angles(prediction, target, valid)])
        return Reduction(error(every).sum()[None], torch.tensor([every.numel()]))

    return measured


def _by_image_angles(number: Callable[[Tensor], Tensor]) -> Measure:
    """Per image: the mean over images of a function of an image's angles (Marigold's protocol)."""
    return lambda prediction, target, valid: over([number(a)[None] for a in angles(prediction, target, valid)])


def _angle_histogram(prediction: Tensor, target: Tensor, valid: Tensor) -> Reduction:
    """How many pixels have each angle, in steps of ANGLE_STEP_DEG: (18001,)."""
    counts = torch.zeros(round(180 / ANGLE_STEP_DEG) + 1, dtype=torch.float64)
    for image in angles(prediction, target, valid):
        counts += torch.bincount((image / ANGLE_STEP_DEG).round().long(), minlength=len(counts))
    return Reduction(counts, counts.sum().long()[None])


def _binarised(prediction: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The prediction stretched per image to [0, 1] unless it is constant, and the target as bool, cut above CUT.

    So do the published evaluations of masks (DIS5K, PySODMetrics).
    """
    truth, span = target.astype(np.float32) > CUT, prediction.max() - prediction.min()
    return (prediction - prediction.min()) / span if span > 0 else prediction.clip(0, 1), truth


def _level_counts(prediction: np.ndarray, where: np.ndarray) -> np.ndarray:
    """How many of the pixels `where` are at least 255, 254, ... 0 of 255 in the prediction: (256,)."""
    levels = (prediction[where] * 255).astype(np.uint8)
    return np.bincount(levels, minlength=THRESHOLDS)[::-1].cumsum()


def _f_curve(prediction: Tensor, target: Tensor, valid: Tensor) -> Reduction:
    """Per image and threshold, (1 + b) P R / (b P + R) of masks with b = beta^2 = 0.3 (Achanta et al. 2009): (256,).

    Predictions are stretched (see `stretched`), targets cut above CUT.
    """
    curves = []
    for p, y, v in images(prediction, target, valid):
        mask, truth = _binarised(p[v].numpy(), y[v].numpy())
        hits, positives = _level_counts(mask, truth), _level_counts(mask, np.ones_like(truth))
        precision, recall = hits / np.maximum(positives, 1), hits / max(truth.sum(), 1)
        product = precision * recall
        divisor = np.where(product > 0, BETA_SQUARED * precision + recall, 1)
        curves.append(torch.from_numpy((1 + BETA_SQUARED) * product / divisor))
    return over(curves, THRESHOLDS)


@by_pictures
def mae(p: np.ndarray, y: np.ndarray, valid: np.ndarray) -> float:
    """mean |p - y| of a stretched mask and a cut target (Perazzi et al. 2012); `mad` does neither."""
    mask, truth = _binarised(p[valid], y[valid])
    return np.abs(mask - truth).mean()


@by_pictures
def _weighted_f(p: np.ndarray, y: np.ndarray, valid: np.ndarray) -> float:
    """F-measure (beta = 1) whose errors are weighted by where they lie (Margolin et al. 2014), in [0, 1].

    Errors inside are lightened by erring neighbours (Gaussian 7 x 7, sigma 5), those outside weigh up to twice as
    much far from the object. An image without an object scores 0. What is not valid is background in both.
    """
    from scipy.ndimage import convolve, distance_transform_edt

    mask, truth = on_background(p, y, valid)
    if not truth.any():
        return 0.0
    nearest = np.zeros((2, *truth.shape), dtype=np.int32)
    distance = np.asarray(distance_transform_edt(~truth, return_indices=True, indices=nearest))
    error = np.abs(mask - truth)
    # background takes the error of the nearest object pixel, so that the blur is right at the edge
    smooth = convolve(error[tuple(nearest)], np.outer(_bell(7, 5.0), _bell(7, 5.0)), mode="constant")
    lightened = np.where(truth & (smooth < error), smooth, error)
    weighted = lightened * np.where(truth, 1, 2 - np.exp(math.log(0.5) / 5 * distance))
    hits, false = truth.sum() - weighted[truth].sum(), weighted[~truth].sum()
    recall, precision = 1 - weighted[truth].mean(), hits / (hits + false + EPSILON)
    return 2 * recall * precision / (recall + precision + EPSILON)


@by_pictures
def _s_measure(p: np.ndarray, y: np.ndarray, valid: np.ndarray) -> float:
    """Mean of object similarity and region similarity (structure measure, Fan et al. 2017), in [0, 1].

    What is not valid is background in both.
    """
    mask, truth = on_background(p, y, valid)
    share = truth.mean()
    if share in (0, 1):
        return float(mask.mean() if share else 1 - mask.mean())
    objects = share * _object_similarity(mask[truth]) + (1 - share) * _object_similarity(1 - mask[~truth])
    return float(max(0, (objects + _region_similarity(mask, truth)) / 2))


def _object_similarity(values: np.ndarray) -> float:
    """2 m / (m^2 + 1 + s) of the values (N,) that should all be 1."""
    mean, spread = values.mean(), values.std(ddof=1) if values.size > 1 else 0
    return 2 * mean / (mean**2 + 1 + spread + EPSILON)


def _region_similarity(mask: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity of the four parts around the object's centroid, by area."""
    row, column = (int(centre) + 1 for centre in np.argwhere(truth).mean(0).round())
    total = 0.0
    for part in np.ndindex(2, 2):
        window = tuple(slice(cut, None) if half else slice(cut) for half, cut in zip(part, (row, column)))
        total += mask[window].size * _part_similarity(mask[window], truth[window].astype(float))
    return total / mask.size


def _part_similarity(x: np.ndarray, y: np.ndarray) -> float:
    """4 mx my cov / ((mx^2 + my^2) (vx + vy)); 1 where both are 0, 0 for an empty part."""
    if not x.size:
        return 0.0
    rest = x.size - 1 + EPSILON
    covariance = ((x - x.mean()) * (y - y.mean())).sum() / rest
    variance = (((x - x.mean()) ** 2).sum() + ((y - y.mean()) ** 2).sum()) / rest
    above, below = 4 * x.mean() * y.mean() * covariance, (x.mean() ** 2 + y.mean() ** 2) * variance
    if above == 0:
        return float(below == 0)
    return above / (below + EPSILON)


@by_pictures
def _e_measure(p: np.ndarray, y: np.ndarray, valid: np.ndarray) -> float:
    """Mean over 256 thresholds of the enhanced alignment (Fan et al. 2018), in [0, 1].

    Alignment 2 a b / (a^2 + b^2) of mask and target less their means, enhanced by (1 + x)^2 / 4, summed over N
    pixels and divided by N - 1. The threshold at 0 selects everything, so that even a perfect mask stays a little
    below 1.
    """
    mask, truth = _binarised(p[valid], y[valid])
    size, objects = truth.size, int(truth.sum())
    selected = _level_counts(mask, np.ones_like(truth))
    if objects in (0, size):
        return float((selected if objects else size - selected).mean() / max(size - 1, 1))
    hits = _level_counts(mask, truth)
    counts = (hits, selected - hits, objects - hits, size - selected - objects + hits)
    total = np.zeros(THRESHOLDS)
    for count, (is_selected, is_object) in zip(counts, ((1, 1), (1, 0), (0, 1), (0, 0))):
        a, b = is_selected - selected / size, is_object - objects / size
        total += count * (1 + 2 * a * b / (a**2 + b**2 + EPSILON)) ** 2 / 4
    return float(total.mean() / max(size - 1, 1))


def on_background(p: np.ndarray, y: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`stretched` by the valid pixels, 0 and False elsewhere."""
    mask, truth = np.zeros_like(p), np.zeros(p.shape, dtype=bool)
    mask[valid], truth[valid] = _binarised(p[valid], y[valid])
    return mask, truth


def _iou_counts(prediction: Tensor, target: Tensor, valid: Tensor) -> Reduction:
    """Intersection and union, in pixels, of what is at least 0.5 in the prediction, above CUT in the target."""
    check_shapes(prediction, target, valid)
    one, other = (prediction >= 0.5) & valid, (target.float() > float(CUT)) & valid
    return Reduction((one & other).sum().cpu().double()[None], (one | other).sum().cpu()[None])


@by_pictures
def grad(p: np.ndarray, y: np.ndarray, valid: np.ndarray) -> float:
    """sum (|grad p| - |grad y|)^2 / 1000 of mattes in [0, 1], gradients by Gaussian derivatives (Rhemann et al. 2009).

    Sigma is 1.4, the filters have unit energy and end where the Gaussian falls below 0.01, edges repeat. Mattes are
    taken as they come, where Rhemann et al. stretch them to [0, 1]. What is not valid is 0 in both.
    """
    from scipy.ndimage import correlate

    sigma = 1.4
    reach = math.ceil(sigma * math.sqrt(-2 * math.log(math.sqrt(2 * math.pi) * sigma * 0.01)))
    x = np.arange(-reach, reach + 1)
    filters = np.outer(_bell(len(x), sigma), x * _bell(len(x), sigma))
    filters /= np.linalg.norm(filters)
    steepness = [
        np.hypot(correlate(matte, filters, mode="nearest"), correlate(matte, filters.T, mode="nearest"))
        for matte in (p, y)
    ]
    return ((steepness[0] - steepness[1]) ** 2)[valid].sum() / 1000


@by_pictures
def conn(p: np.ndarray, y: np.ndarray, valid: np.ndarray) -> float:
    """sum |phi(p) - phi(y)| / 1000 of mattes in [0, 1], how far each pixel is connected (Rhemann et al. 2009).

    l is the highest threshold up to which a pixel lies in the largest 4-connected region where both mattes reach
    it; phi(a) = 1 - (a - l) where a - l >= 0.15, else 1. A threshold that no pixel reaches in both is passed over
    (P3M's evaluation). What is not valid is 0 in both.
    """
    from scipy.ndimage import label

    level = np.full(p.shape, -1.0)
    thresholds = np.linspace(0, 1, 11)
    for below, threshold in pairwise(thresholds):
        regions = np.zeros(p.shape, dtype=np.int32)
        label((p >= threshold) & (y >= threshold), output=regions)
        if regions.any():
            largest = np.bincount(regions.ravel())[1:].argmax() + 1
            level[(level == -1) & (regions != largest)] = below
    level[level == -1] = 1
    phi = [1 - np.where(matte - level >= 0.15, matte - level, 0) for matte in (p, y)]
    return np.abs(phi[0] - phi[1])[valid].sum() / 1000


def confusion(prediction: Tensor, target: Tensor, valid: Tensor) -> Reduction:
    """Pixels by target class (row) and predicted class (column), (CLASSES, CLASSES), from indices (B, 1, H, W)."""
    check_shapes(prediction, target, valid)
    pairs = [labels.detach()[valid].cpu().long() for labels in (prediction, target)]
    for labels in pairs:
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < CLASSES:
            raise UserError(
                f"Got class {int(labels.max())}: classes are 0 to {CLASSES - 1}; mark other labels as not valid."
            )
    matrix = torch.bincount(pairs[1] * CLASSES + pairs[0], minlength=CLASSES**2).view(CLASSES, CLASSES)
    return Reduction(matrix.double(), matrix.sum()[None])


def _mean_iou(matrix: Tensor) -> float:
    """Mean over the classes that occur, in target or prediction, of intersection over union."""
    right, union = matrix.diagonal(), matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    return (right / union)[union > 0].mean().item()


def _mean_accuracy(matrix: Tensor) -> float:
    """Mean over the classes of the target of the share found."""
    rows = matrix.sum(1)
    return (matrix.diagonal() / rows)[rows > 0].mean().item()


def _pixel_accuracy(matrix: Tensor) -> float:
    """Share of pixels in their class."""
    return (matrix.diagonal().sum() / matrix.sum()).item()


def peaks(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """(K, H, W) -> where each is highest (K, 2) as x, y in pixels, and whether it rises above 0 at all (K,)."""
    height, index = heatmaps.flatten(1).max(1)
    width = heatmaps.shape[-1]
    return torch.stack((index % width, index // width), -1).double(), height > 0


def _extent(points: Tensor) -> Tensor:
    """Width and height (2,) of the tight box around points (N, 2), at least a pixel."""
    return (points.amax(0) - points.amin(0)).clamp(min=1)


def _instances(prediction: Tensor, target: Tensor, valid: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor] | None]:
    """Per image one person's points (K, 2) twice and which are labelled (K,); None for an image without a label.

    From heatmaps (B, K, H, W): a keypoint whose target is 0 everywhere is not labelled.
    """
    check_shapes(prediction, target, valid)
    for p, y, v in zip(prediction.detach().cpu(), target.detach().cpu(), valid.cpu()):
        points, _ = peaks(p.masked_fill(~v, -math.inf))
        truth, labelled = peaks(y.masked_fill(~v, 0))
        yield (points, truth, labelled) if labelled.any() else None


def pck(prediction: Tensor, target: Tensor, valid: Tensor, reach: float = 0.2) -> Reduction:
    """Share of the set's labelled keypoints found within `reach` of the person's size (Yang and Ramanan 2013).

    One person an image, as heatmaps (B, K, H, W). The size is the longer side of the box around the labelled
    keypoints.
    """
    right, labelled = 0, 0
    for person in _instances(prediction, target, valid):
        if person is not None:
            points, truth, known = person
            distance = (points[known] - truth[known]).norm(dim=-1)
            right += int((distance <= reach * _extent(truth[known]).max()).sum())
            labelled += int(known.sum())
    return Reduction(torch.tensor([right], dtype=torch.float64), torch.tensor([labelled]))


def oks(prediction: Tensor, target: Tensor, valid: Tensor, area: Tensor | None = None) -> Reduction:
    """Mean over people of COCO's object keypoint similarity, from heatmaps (B, 17, H, W) of one person an image.

    `area` (B,): the person's, in pixels of the heatmaps; without it 0.53 of the box around the labelled keypoints,
    as is usual where no segmentation is given. Average precision over detections needs scores, so it is not made
    from this.
    """
    areas = [None] * len(target) if area is None else area.tolist()
    numbers = []
    for person, size in zip(_instances(prediction, target, valid), areas):
        if person is not None:
            points, truth, known = person
            size = 0.53 * _extent(truth[known]).prod().item() if size is None else size
            numbers.append(keypoint_similarity(points, truth, known, size)[None])
    return over(numbers)


def keypoint_similarity(points: Tensor, truth: Tensor, labelled: Tensor, area: float) -> Tensor:
    """mean exp(-d^2 / (2 area (2 sigma)^2)) over the labelled of COCO's 17 keypoints (17, 2); a scalar in [0, 1]."""
    if len(points) != len(COCO_SIGMAS):
        raise UserError(f"OKS is defined for COCO's {len(COCO_SIGMAS)} keypoints, got {len(points)}: use PCK.")
    spread = 2 * torch.tensor(COCO_SIGMAS, dtype=torch.float64)
    distance = (points.double() - truth.double()).square().sum(-1)
    return (-distance / (2 * area * spread.square())).exp()[labelled].mean()


def lmse(prediction: Tensor, target: Tensor, valid: Tensor, window: int = 20) -> Reduction:
    """Local mean squared error of albedo or shading, each window scaled by its own best fit (Grosse et al. 2009).

    sum_w min_a |a p - y|^2 / sum_w |y|^2 over windows that overlap by half, one a for all channels; per image.
    Linear values. 0 is perfect, 1 is what black scores. Smaller images are one window.
    """
    numbers = []
    for p, y, _ in images(prediction, target, valid):
        sides = [min(window, side) for side in p.shape[1:]]
        steps = [max(side // 2, 1) for side in sides]
        products = torch.stack((p * p, p * y, y * y)).sum(1, keepdim=True)
        pp, py, yy = F.avg_pool2d(products, sides, steps)[:, 0]
        left = (yy - py.square() / torch.where(pp > 0, pp, 1)).clamp(min=0)
        if yy.sum() > 0:
            numbers.append((left.sum() / yy.sum())[None])
    return over(numbers)


def ssim(prediction: Tensor, target: Tensor, valid: Tensor) -> Reduction:
    """Structural similarity of values in [0, 1] (Wang et al. 2004), averaged over channels and pixels of an image.

    Gaussian window 11 x 11 of sigma 1.5, K1 = 0.01, K2 = 0.03; where the window fits into the image and its centre
    is valid.
    """
    numbers = []
    for p, y, v in images(prediction, target, valid):
        side = min(11, *p.shape[1:])
        side -= 1 - side % 2
        mean_p, mean_y, pp, yy, py = (_windowed(moment, _bell(side, 1.5)) for moment in (p, y, p * p, y * y, p * y))
        c1, c2 = 0.01**2, 0.03**2
        luminance = (2 * mean_p * mean_y + c1) / (mean_p**2 + mean_y**2 + c1)
        structure = (2 * (py - mean_p * mean_y) + c2) / (pp - mean_p**2 + yy - mean_y**2 + c2)
        cut = side // 2
        inside = v[0, cut : v.shape[1] - cut, cut : v.shape[2] - cut]
        if inside.any():
            numbers.append((luminance * structure)[:, inside].mean()[None])
    return over(numbers)


def _bell(side: int, sigma: float) -> np.ndarray:
    """Gaussian (side,), summing to 1."""
    x = np.arange(side) - (side - 1) / 2
    weights = np.exp(-(x**2) / (2 * sigma**2))
    return weights / weights.sum()


def _windowed(values: Tensor, weights: np.ndarray) -> Tensor:
    """(C, H, W) weighted along both sides where the window fits: each side len(weights) - 1 shorter."""
    for dim in (1, 2):
        length = values.shape[dim] - len(weights) + 1
        # in turn: a convolution in float64 takes a minute for a megapixel
        shifted = (weight * values.narrow(dim, start, length) for start, weight in enumerate(weights.tolist()))
        values = sum(shifted, values.new_zeros(()))
    return values


def average(reduction: Reduction) -> float:
    """Sum over weight."""
    return (reduction.total.sum() / reduction.weight.sum()).item()


def root(reduction: Reduction) -> float:
    """Square root of the average."""
    return math.sqrt(average(reduction))


def _highest(reduction: Reduction) -> float:
    """The largest of the averages of a curve."""
    return (reduction.total / reduction.weight).max().item()


def middle(reduction: Reduction) -> float:
    """The lower median of an angle histogram, in degrees, to half an ANGLE_STEP_DEG."""
    rank = (int(reduction.weight.sum()) - 1) // 2
    return int((reduction.total.cumsum(0) > rank).nonzero()[0]) * ANGLE_STEP_DEG


def _from_matrix(number: Callable[[Tensor], float]) -> Callable[[Reduction], float]:
    """Finish with a function of the confusion matrix."""
    return lambda reduction: number(reduction.total)


@dataclass(frozen=True)
class Metric:
    """A row of METRICS."""

    name: str
    title: str
    """As papers write it."""
    measure: Measure
    """(prediction, target, valid) -> sums; see the function for shapes and units."""
    higher: bool
    """Whether more is better."""
    perfect: float
    """What a perfect prediction scores."""
    per: Literal["image", "set"] = "image"
    """Averaged per image and then over images, or over all pixels of the set."""
    unit: str = ""
    finish: Callable[[Reduction], float] = average

    def value(self, reduction: Reduction) -> float:
        """The metric of everything that was added up; NaN if nothing was measured."""
        return self.finish(reduction) if reduction.weight.sum() > 0 else math.nan

    def __call__(self, prediction: Tensor, target: Tensor, valid: Tensor) -> float:
        """The metric of one batch."""
        return self.value(self.measure(prediction, target, valid))

    def better(self, value: float, other: float) -> bool:
        """Whether `value` beats `other`; any number beats NaN."""
        if math.isnan(value) or math.isnan(other):
            return not math.isnan(value)
        return value > other if self.higher else value < other


def _angle_rows() -> list[Metric]:
    """Normals by both protocols: pooled over the set (DSINE), and per image (Marigold) with the suffix -per-image."""
    rows = [
        Metric("mean-angle", "mean", _by_angles(lambda a: a), False, 0, "set", "deg"),
        Metric("median-angle", "median", _angle_histogram, False, 0, "set", "deg", middle),
        Metric("rmse-angle", "RMSE", _by_angles(torch.square), False, 0, "set", "deg", root),
        Metric("mean-angle-per-image", "mean", _by_image_angles(torch.mean), False, 0, unit="deg"),
        Metric("median-angle-per-image", "median", _by_image_angles(_median_angle), False, 0, unit="deg"),
        Metric("rmse-angle-per-image", "RMSE", _by_image_angles(_root_mean_square), False, 0, unit="deg"),
    ]
    for limit in (5, 7.5, 11.25, 22.5, 30):
        name, title, share = f"angle-{limit}", f"< {limit}°", _percent_below(limit)
        rows.append(Metric(name, title, _by_angles(share), True, 100, "set", "%"))
        rows.append(Metric(f"{name}-per-image", title, _by_image_angles(_mean_of(share)), True, 100, unit="%"))
    return rows


def _median_angle(angle: Tensor) -> Tensor:
    return torch.tensor(np.median(angle.numpy()))


def _root_mean_square(angle: Tensor) -> Tensor:
    return angle.square().mean().sqrt()


def _percent_below(limit: float) -> Callable[[Tensor], Tensor]:
    return lambda angle: 100 * (angle < limit).double()


def _mean_of(error: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda angle: error(angle).mean()


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("abs-rel", "AbsRel", _abs_rel, False, 0),
        Metric("sq-rel", "SqRel", _sq_rel, False, 0, unit="m"),
        Metric("rmse", "RMSE", rmse, False, 0, unit="m"),
        Metric("rmse-log", "RMSE log", _rmse_log, False, 0),
        Metric("log10", "log10", log10, False, 0),
        Metric("delta1", "δ1", _delta(1), True, 1),
        Metric("delta2", "δ2", _delta(2), True, 1),
        Metric("delta3", "δ3", _delta(3), True, 1),
        Metric("i-rmse", "iRMSE", _i_rmse, False, 0, unit="1/m"),
        Metric("silog", "SILog", silog, False, 0),
        *_angle_rows(),
        Metric("max-f", "maxFβ", _f_curve, True, 1, finish=_highest),
        Metric("weighted-f", "Fβw", _weighted_f, True, 1),
        Metric("mae", "MAE", mae, False, 0),
        Metric("s-measure", "Sα", _s_measure, True, 1),
        Metric("e-measure", "Eφ mean", _e_measure, True, 1),
        Metric("iou", "IoU", _iou_counts, True, 1, "set"),
        Metric("sad", "SAD", sad, False, 0),
        Metric("mse", "MSE", mean_squared_error, False, 0),
        Metric("mad", "MAD", mad, False, 0),
        Metric("grad", "Grad", grad, False, 0),
        Metric("conn", "Conn", conn, False, 0),
        Metric("miou", "mIoU", confusion, True, 1, "set", finish=_from_matrix(_mean_iou)),
        Metric("pixel-accuracy", "aAcc", confusion, True, 1, "set", finish=_from_matrix(_pixel_accuracy)),
        Metric("mean-accuracy", "mAcc", confusion, True, 1, "set", finish=_from_matrix(_mean_accuracy)),
        Metric("pck-0.1", "PCK@0.1", partial(pck, reach=0.1), True, 1, "set"),
        Metric("pck", "PCK@0.2", pck, True, 1, "set"),
        Metric("oks", "OKS", oks, True, 1),
        Metric("lmse", "LMSE", lmse, False, 0),
        Metric("l1", "L1", mad, False, 0),
        Metric("colour-angle", "angle of colours", _colour_angle, False, 0, unit="rad"),
        Metric("stretched-rmse", "RMSE of stretched maps", _stretched_rmse, False, 0),
        Metric("psnr", "PSNR", psnr, True, math.inf, unit="dB"),
        Metric("ssim", "SSIM", ssim, True, 1),
    )
}
