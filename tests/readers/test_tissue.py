"""Tissue and patches on slides whose geometry is known; filters against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from tests.readers.slide_files import save_slide, tissue_image

from adacomed.errors import InputError
from adacomed.readers import tissue as module
from adacomed.readers.slide import ArraySlide, read_slide
from adacomed.readers.tissue import Segmentation, draw_overview, find_tissue, tissue_patches

PINK = (190, 100, 150)


def glass(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 244, np.uint8)


def test_median_and_saturation_against_scipy_and_colorsys() -> None:
    import colorsys

    rng = np.random.default_rng(0)
    values = rng.integers(0, 20, (60, 45), dtype=np.uint8)
    expected = ndimage.median_filter(values, 7, mode="nearest") > 8
    assert np.array_equal(module._median_above(values, 8, 7), expected)
    image = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
    image[0] = 0
    by_hand = [[255 * colorsys.rgb_to_hsv(*(p / 255))[1] for p in row] for row in image]
    assert np.abs(module._saturation(image) - np.array(by_hand)).max() <= 0.51


def test_closing_fills_gaps_below_its_size_and_moves_nothing() -> None:
    mask = np.zeros((30, 40), bool)
    mask[5:25, :10] = True  # touches the border, stays as it is
    mask[5:25, 13:20] = True  # 3 px from the first
    mask[5:25, 24:30] = True  # 4 px from the second
    closed = module._closed(mask, 4)
    expected = mask.copy()
    expected[5:25, 10:13] = True
    assert np.array_equal(closed, expected)


def test_small_pieces_go_large_holes_stay_out() -> None:
    """Areas in units of 512 × 512 level-0 pixels; 3072² keeps the small-image rule out."""
    image = glass(3072, 3072)
    image[200:1400, 200:1400] = PINK  # 5.5 units
    image[400:1000, 400:1000] = 244  # hole of 1.4 …
    image[600:800, 600:800] = PINK  # … with a piece of 0.15 in it
    image[1100:1300, 1100:1300] = 244  # hole of 0.15
    image[2000:2400, 2000:2400] = PINK  # 0.6
    how = Segmentation(downsample=6, tissue_area=0.7, hole_area=0.5)
    found = find_tissue(ArraySlide(image, 0.5), how)
    assert found.scale == (6.0, 6.0)
    inside = np.kron(found.inside, np.ones((6, 6), bool))
    hole = np.kron(found.hole, np.ones((6, 6), bool))
    expected = np.zeros((3072, 3072), bool)
    expected[200:1400, 200:1400] = True
    assert (inside ^ expected).sum() < 0.02 * expected.sum()
    expected[:] = False
    expected[400:1000, 400:1000] = True
    assert (hole ^ expected).sum() < 0.05 * expected.sum()

    how = Segmentation(downsample=6, tissue_area=0.1, hole_area=0.1)
    found = find_tissue(ArraySlide(image, 0.5), how)
    assert ndimage.label(found.inside)[1] == 2  # the small piece is one now
    assert not found.hole[700 // 6, 700 // 6], "a piece in a hole is tissue"
    assert found.hole[500 // 6, 500 // 6]
    assert found.hole[1200 // 6, 1200 // 6]
    assert not find_tissue(ArraySlide(image, 0.5), Segmentation(max_holes=0)).hole.any()


def test_a_small_image_is_not_too_small() -> None:
    """CLAM's filter of 100 reference patches is 26 megapixels; a tissue core has fewer."""
    slide = ArraySlide(tissue_image(900, 900, [(0.5, 0.5, 0.4)]), 0.5)
    found = find_tissue(slide)
    share = np.pi * 0.4**2
    assert found.inside.mean() == pytest.approx(share, rel=0.03)
    speck = ArraySlide(tissue_image(900, 900, [(0.5, 0.5, 0.05)]), 0.5)  # 0.8 % of the slide
    with pytest.raises(InputError, match="no tissue found"):
        tissue_patches(speck)


def test_four_points_and_hole_at_the_centre() -> None:
    """Tissue over the right edge of a column of patches, up to each point of the rule."""
    for reach, kept in ((60, False), (100, True)):  # points lie 64 px from a patch's edge
        image = glass(1024, 1024)
        image[:, 256 - reach : 256] = PINK
        image[:, 512:] = PINK
        how = Segmentation(downsample=1, tissue_area=0.05, hole_area=0.01)
        xy = tissue_patches(ArraySlide(image, 0.5), segmentation=how).xy
        assert ((xy[:, 0] == 0).sum() == 4) == kept
        assert (xy[:, 0] >= 512).sum() == 8
    image = glass(1024, 1024)
    image[:] = PINK
    image[340:440, 340:440] = 244  # around the centre of the patch at (256, 256) only
    patches = tissue_patches(ArraySlide(image, 0.5), segmentation=how)
    assert [256, 256] not in patches.xy.tolist()
    assert len(patches.xy) == 15


@pytest.mark.parametrize(("mpp", "size0"), [(0.25, 512), (0.5, 256), (0.2527, 507), (0.6, 213)])
def test_patches_have_the_asked_magnification(mpp: float, size0: int) -> None:
    slide = ArraySlide(np.broadcast_to(np.uint8(PINK), (1000, 1500, 3)).copy(), mpp)
    patches = tissue_patches(slide)
    assert (patches.size0, patches.size) == (size0, 256)
    rows, columns = -(-1000 // size0), -(-1500 // size0)
    expected = [[c * size0, r * size0] for r in range(rows) for c in range(columns)]
    assert [p for p in expected if p in patches.xy.tolist()] == patches.xy.tolist(), "row by row"
    inner = [p for p in expected if p[0] + size0 <= 1500 and p[1] + size0 <= 1000]
    assert all(p in patches.xy.tolist() for p in inner)
    assert patches.read(0).shape == (256, 256, 3)
    paper = tissue_patches(slide, paper=True)
    assert (paper.size0, paper.size, len(paper.xy)) == (256, 256, 24)


def test_a_slide_without_mpp() -> None:
    slide = ArraySlide(tissue_image(900, 900), None)
    with pytest.raises(InputError, match=r"does not say its µm per pixel; give the option mpp"):
        tissue_patches(slide)
    assert tissue_patches(slide, mpp=0.25).size0 == 512
    assert tissue_patches(slide, paper=True).size0 == 256
    stated = ArraySlide(slide.pixels, 0.5)
    assert tissue_patches(stated, mpp=0.25).size0 == 256, "what the slide says goes first"


@pytest.mark.parametrize(
    ("mpp", "patch_mpp", "message"),
    [
        (1.0, 0.5, r"1 µm per pixel at its finest.*patch_mpp=1 would work"),
        (0.001, 0.5, "expected within"),
        (0.5, 50.0, "expected within"),
        (0.5, float("nan"), "expected within"),
    ],
)
def test_magnifications_that_cannot_be(mpp: float, patch_mpp: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tissue_patches(ArraySlide(tissue_image(900, 900), mpp), patch_mpp=patch_mpp)


def test_tissue_between_the_points_of_a_patch() -> None:
    slide = ArraySlide(tissue_image(512, 512, [(0.5, 0.5, 0.19)]), 0.25)
    with pytest.raises(InputError, match="too small for patches of 512 level-0 pixels"):
        tissue_patches(slide)
    assert len(tissue_patches(slide, patch_mpp=0.25).xy) == 4


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (200, 196, 198)])
def test_no_tissue(colour: tuple[int, int, int]) -> None:
    image = np.empty((700, 500, 3), np.uint8)
    image[:] = colour
    with pytest.raises(InputError, match="no tissue found"):
        tissue_patches(ArraySlide(image, 0.5))


def test_a_file_gives_the_patches_of_its_pixels(tmp_path) -> None:
    image = tissue_image(2048, 1536, [(0.3, 0.3, 0.15), (0.7, 0.5, 0.12)])
    file = tissue_patches(read_slide(save_slide(tmp_path / "s.tif", image, mpp=0.25)))
    array = tissue_patches(ArraySlide(image, 0.25))
    assert np.array_equal(file.xy, array.xy)
    inside = np.array([image[y : y + 512, x : x + 512].std() > 20 for x, y in file.xy])
    assert inside.all()
    assert 4 <= len(file.xy) < 12


def test_overview_shows_every_patch() -> None:
    slide = ArraySlide(tissue_image(1500, 1100, [(0.35, 0.3, 0.25)]), 0.5)
    patches = tissue_patches(slide)
    drawn = draw_overview(slide, patches, max_side=750)
    plain = slide.overview(750)
    assert drawn.shape == plain.shape == (550, 750, 3)
    outline = (drawn == module.OUTLINE).all(axis=2)
    assert not (plain == module.OUTLINE).all(axis=2).any()
    assert np.array_equal(drawn[~outline], plain[~outline])
    expected = np.zeros_like(outline)
    for x, y in patches.xy // 2:
        expected[y : y + 128, x : x + 128] = True
    for x, y in patches.xy // 2:
        right, bottom = min(x + 128, 750), min(y + 128, 550)
        expected[y + 1 : bottom - 1, x + 1 : right - 1] = False
    assert np.array_equal(outline, expected)
