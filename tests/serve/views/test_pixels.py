"""Window and level by pixels: what is black, what is white, and where a slice's corners lie."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from adacomed.errors import InputError
from adacomed.serve.views.pixels import MAX_SIDE, PRESETS, Picture, Window, draw, windowed

numbers = st.floats(-1e6, 1e6)
widths = st.floats(1e-3, 1e6)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(png)))


def image(values: np.ndarray, **more) -> Picture:
    return Picture(values.astype(np.float32), "stored value", Window(50, 100), **more)


@given(numbers, widths)
def test_a_windows_ends_are_black_and_white(centre, width):
    window = Window(centre, width)
    values = np.array([centre - width / 2, centre + width / 2])
    ends = windowed(values, window)
    # the sum rounds: an end may be off by what a float of its size can hold
    slack = int(np.ceil(255 * np.spacing(max(abs(centre), width)) / width))
    assert ends[0] <= slack
    assert ends[1] >= 255 - slack


@given(st.lists(numbers, min_size=2, max_size=50), numbers, widths)
def test_brightness_never_falls_where_the_value_rises(values, centre, width):
    grey = windowed(np.sort(np.array(values)), Window(centre, width)).astype(int)
    assert (np.diff(grey) >= 0).all()


@given(st.lists(numbers, min_size=1, max_size=50), numbers, widths)
def test_it_is_the_formula(values, centre, width):
    share = (np.array(values) - (centre - width / 2)) / width
    expected = np.clip(share * 255, 0, 255)
    assert np.abs(windowed(np.array(values), Window(centre, width)) - expected).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("centre", "width"),
    [(0, 0), (0, -1), (float("nan"), 1), (0, float("nan")), (float("inf"), 1), (0, 2e9)],
)
def test_a_window_that_is_none_is_refused(centre, width):
    with pytest.raises(InputError, match="centre=40&width=400"):
        Window(centre, width)


def test_an_image_is_drawn_pixel_by_pixel():
    values = np.arange(12.0).reshape(3, 4) * 10
    drawn = pixels(draw(image(values), window=Window(50, 100)))
    assert drawn.tolist() == np.rint(np.clip(values / 100, 0, 1) * 255).astype(int).tolist()


def test_inverted_is_the_opposite_and_twice_is_as_before():
    values = np.arange(12.0).reshape(3, 4)
    plain = pixels(draw(image(values)))
    assert (pixels(draw(image(values), invert=True)) == 255 - plain).all()
    assert (pixels(draw(image(values, inverted=True), invert=True)) == plain).all()


def test_colours_stay_colours():
    values = np.zeros((2, 2, 3))
    values[..., 0] = 100
    assert pixels(draw(image(values))).tolist() == [[[255, 0, 0]] * 2] * 2


def test_a_large_image_is_sent_no_larger_than_asked():
    values = np.tile(np.arange(100.0), (50, 30))
    assert pixels(draw(image(values), side=300)).shape == (5, 300)
    assert max(pixels(draw(image(values), side=10**9)).shape) <= MAX_SIDE


# X × Y × Z = 3 × 4 × 5, each voxel its own value
VOLUME = np.arange(60.0).reshape(3, 4, 5)


def volume(spacing=(1.0, 1.0, 1.0)) -> Picture:
    return Picture(VOLUME.astype(np.float32), "HU", Window(29.5, 59), spacing, range=(0.0, 59.0))


@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_slices_lie_as_radiologists_have_them(plane, at):
    """Right of the patient at the left, front above (axial) or at the left, head above."""
    drawn = pixels(draw(volume(), plane=plane, at=at))
    cut = {"axial": VOLUME[:, :, at], "coronal": VOLUME[:, at, :], "sagittal": VOLUME[at]}[plane]
    across, up = cut.shape
    expected = np.empty((up, across))
    for a in range(across):
        for u in range(up):
            expected[up - 1 - u, across - 1 - a] = cut[a, u]
    assert drawn.tolist() == np.rint(expected / 59 * 255).astype(int).tolist()


def test_thick_slices_are_drawn_thick():
    assert pixels(draw(volume((1.0, 1.0, 4.0)), plane="coronal")).shape == (20, 3)
    assert pixels(draw(volume((2.0, 1.0, 1.0)), plane="axial")).shape == (4, 6)


@pytest.mark.parametrize("at", [-1, 5, 10**9])
def test_a_slice_that_is_not_there_is_a_sentence(at):
    with pytest.raises(InputError, match="0 to 4 would work"):
        draw(volume(), at=at)


def test_a_plane_that_is_not_there_is_a_sentence():
    with pytest.raises(InputError, match="did you mean 'coronal'"):
        draw(volume(), plane="koronal")


def test_only_hounsfield_units_have_presets():
    assert volume().presets == PRESETS
    assert image(np.zeros((2, 2))).presets == {}
