"""Tests of core.display.exr: OpenEXR's own library reads back what was written."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from diffusion_perception.core.display.exr import COMPRESSIONS, Channel, exr

openexr = pytest.importorskip("OpenEXR")
WAYS = sorted(COMPRESSIONS)


def read(data: bytes):
    """({channel: (H, W)}, header) as OpenEXR reads them."""
    with openexr.File(io.BytesIO(data), separate_channels=True) as file:
        return {name: channel.pixels for name, channel in file.channels().items()}, dict(file.header())


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 20)).flatmap(lambda size: arrays(np.float32, size)),
    st.booleans(),
    st.sampled_from(WAYS),
)
def test_a_channel_gives_back_every_bit_of_any_number(values, half, way):
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16 if half else np.float32)
    with np.errstate(over="ignore"):
        channels, _ = read(exr([Channel("Y", values, half)], {}, way))
    assert channels["Y"].dtype == expected.dtype
    assert np.array_equal(channels["Y"], expected, equal_nan=True)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("height", [1, 15, 16, 17, 50])
def test_layers_of_half_and_single_precision_lie_in_one_file(way, height):
    random = np.random.default_rng(height)
    names = ["N.Z", "R", "Z", "albedo.R", "B", "N.X", "matte.A", "G", "A", "N.Y"]
    channels = [Channel(name, random.normal(size=(height, 33)).astype(np.float32), name != "Z") for name in names]
    found, header = read(
        exr(channels, {"workflow": '{"nodes": "é"}', "a name of more than 31 characters is long": "x"}, way)
    )
    assert sorted(found) == sorted(names)
    for channel in channels:
        assert np.array_equal(found[channel.name], channel.values.astype(np.float16 if channel.half else np.float32))
    assert header["workflow"] == '{"nodes": "é"}'
    assert header["a name of more than 31 characters is long"] == "x"
    assert header["compression"].name == {"none": "NO_COMPRESSION", "zip": "ZIP_COMPRESSION"}[way]


def test_what_is_smooth_is_stored_in_less_and_noise_in_no_more_than_it_has():
    rows, columns = np.mgrid[:512, :512].astype(np.float32) / 512
    smooth = np.sin(rows * 3) + columns**2
    for half in (False, True):
        values = smooth.astype(np.float16 if half else np.float32)
        theirs = io.BytesIO()
        header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage}
        openexr.File(header, {"Z": values}).write(theirs)
        ours = len(exr([Channel("Z", smooth, half)], {}))
        assert ours < 0.75 * values.nbytes
        assert ours < 1.15 * len(theirs.getvalue())
    noise = np.random.default_rng(0).integers(0, 2**32, (64, 64), np.uint32).view(np.float32)
    assert len(exr([Channel("Z", noise)], {})) <= len(exr([Channel("Z", noise)], {}, "none"))
