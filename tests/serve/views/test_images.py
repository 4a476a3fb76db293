"""Raw images, volumes and slides as pictures: the values that the file holds, within bounds."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np
import polars as pl
import pytest
from PIL import Image
from tests.readers.dicom_files import ct_array, picture, write_ct_series, write_xray
from tests.readers.slide_files import save_slide, tissue_image

from adacomed.cohort.cohort import Cohort, new_patients
from adacomed.errors import InputError
from adacomed.schema import CohortCard, FileCard, TaskCard
from adacomed.serve.views import images, opening
from adacomed.serve.views.pixels import MAX_SIDE, Window, draw


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(png)))


def grey(values: np.ndarray, window: Window) -> list[list[int]]:
    share = (values.astype(float) - (window.centre - window.width / 2)) / window.width
    return np.rint(np.clip(share, 0, 1) * 255).astype(int).tolist()


# ---- what is drawn ------------------------------------------------------------------------------
def test_a_ct_image_is_in_hounsfield_units(tmp_path):
    stored = picture()
    path = write_xray(
        tmp_path / "ct", stored, Modality="CT", RescaleSlope=2, RescaleIntercept=-1000
    )
    found = opening.open_image(path)
    hu = stored.astype(float) * 2 - 1000
    assert found.unit == "HU"
    assert (found.values == hu).all()
    window = Window(40, 400)
    drawn = pixels(draw(found, window=window))
    assert drawn.tolist() == grey(hu, window)
    assert (drawn[hu <= -160] == 0).all()
    assert (drawn[hu >= 240] == 255).all()


def test_the_files_own_window_comes_first(tmp_path):
    path = write_xray(tmp_path / "dx", WindowCenter=[900, 1], WindowWidth=[600, 1])
    assert opening.open_image(path).window == Window(900, 600)


def test_without_a_window_the_whole_range_is_shown(tmp_path):
    stored = picture()
    path = write_xray(tmp_path / "dx", stored, WindowCenter=100, WindowWidth=-5)
    low, high = int(stored.min()), int(stored.max())
    found = opening.open_image(path)
    assert found.window == Window((low + high) / 2, high - low)
    assert found.range == (low, high)


def test_monochrome1_is_white_where_it_is_small(tmp_path):
    stored = picture()
    found = opening.open_image(write_xray(tmp_path / "dx", stored, photometric="MONOCHROME1"))
    assert pixels(draw(found)).tolist() == (255 - np.array(grey(stored, found.window))).tolist()


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
def test_a_png_is_in_its_own_grey_levels(tmp_path, dtype, top):
    values = np.linspace(0, top, 48 * 40).reshape(48, 40).astype(dtype)
    path = tmp_path / "x.png"
    Image.fromarray(values).save(path)
    found = opening.open_image(path)
    window = Window(top / 3, top / 5)
    assert np.abs(found.values - values).max() < 0.01
    assert found.range == (0, top)
    expected = np.array(grey(values, window))
    assert np.abs(pixels(draw(found, window=window)).astype(int) - expected).max() <= 1
    ends = found.values[[0, -1], [0, -1]]
    assert [int(v) for v in ends] == [0, top]


def test_a_volume_is_in_hounsfield_units_and_right_anterior_superior(tmp_path):
    hu = ct_array()
    affine = np.diag([-0.8, 0.7, 2.5, 1.0])  # x runs to the left in the file
    nibabel.save(nibabel.Nifti1Image(hu, affine), tmp_path / "v.nii.gz")
    found = opening.open_volume(tmp_path / "v.nii.gz")
    assert (found.values == hu[::-1]).all()
    assert found.spacing == pytest.approx((0.8, 0.7, 2.5))
    assert found.note == ""
    drawn = pixels(draw(found, window=Window(40, 400), at=5))
    assert drawn.shape == (16, round(20 * 0.8 / 0.7))


def test_a_dicom_series_is_the_same_volume(tmp_path):
    hu = ct_array()
    found = opening.open_volume(write_ct_series(tmp_path / "series", hu))
    assert (found.values == hu).all()


def test_a_large_volume_is_thinned_as_it_is_read(tmp_path, monkeypatch):
    hu = ct_array((20, 16, 12))
    nibabel.save(nibabel.Nifti1Image(hu, np.diag([0.5, 0.5, 2.0, 1.0])), tmp_path / "v.nii")
    monkeypatch.setattr(opening, "MAX_VOXELS", 1000)
    found = opening.open_volume(tmp_path / "v.nii")
    assert found.values.size <= 1000
    assert (found.values == hu[::2, ::2]).all()  # the fine axes gave way
    assert found.spacing == pytest.approx((1.0, 1.0, 2.0))
    assert "20 × 16 × 12" in found.note


def test_a_large_image_is_reduced(tmp_path):
    values = np.tile(np.arange(250, dtype=np.uint8), (10, 12))
    Image.fromarray(values).save(tmp_path / "x.png")
    found = opening.open_image(tmp_path / "x.png")
    assert found.values.shape == (7, MAX_SIDE)
    assert "3000 × 10" in found.note


def test_a_slide_is_its_overview(tmp_path):
    path = save_slide(tmp_path / "s.tiff", tissue_image())
    found = opening.open_slide(path)
    assert found.values.shape == (683, 1024, 3)
    assert "1536 × 1024 pixels, 0.5 µm" in found.note


def test_a_slide_that_would_take_minutes_is_refused(tmp_path, monkeypatch):
    path = save_slide(tmp_path / "s.tiff", tissue_image(), levels=1)
    monkeypatch.setattr(opening, "MAX_OVERVIEW", 10_000)
    with pytest.raises(InputError, match="a pyramid would work"):
        opening.open_slide(path)


# ---- of a patient -------------------------------------------------------------------------------
def cohort(root: Path, kind: str, *files: str) -> Cohort:
    card = FileCard(kind=kind, column="file", root=root, table=root / "files.parquet")
    pl.DataFrame({"sample_id": ["p1"] * len(files), "file": list(files)}).write_parquet(
        root / "files.parquet"
    )
    whole = CohortCard(
        name="c",
        table="t.csv",
        subject="p",
        tasks={"t": TaskCard(column="x")},
        modalities={"scan": card},
    )
    return new_patients(whole, root, pl.DataFrame({"sample_id": ["p1"]}))


def test_a_patients_pictures_by_number(tmp_path):
    write_xray(tmp_path / "a", picture(seed=0))
    write_xray(tmp_path / "b", picture(seed=1))
    kept = images.pictures()
    mine = cohort(tmp_path, "image", "a", "b", "a")
    assert images.files(mine, "scan") == ["a", "b"]
    first, second = (images.picture(mine, "scan", n, kept) for n in (0, 1))
    assert (first.values == picture(seed=0)).all()
    assert (second.values == picture(seed=1)).all()
    assert images.picture(mine, "scan", 0, kept) is first
    with pytest.raises(InputError, match="there is no 2"):
        images.picture(mine, "scan", 2, kept)
    with pytest.raises(InputError, match="no images of 'scam'; did you mean 'scan'"):
        images.picture(mine, "scam", 0, kept)


def test_a_file_that_was_changed_is_read_again(tmp_path):
    mine, kept = cohort(tmp_path, "image", "a"), images.pictures()
    write_xray(tmp_path / "a", picture(seed=0))
    images.picture(mine, "scan", 0, kept)
    write_xray(tmp_path / "a", picture(60, 60, seed=1))
    assert images.picture(mine, "scan", 0, kept).values.shape == (60, 60)


def test_what_cannot_be_read_is_a_sentence_without_path_or_name(tmp_path):
    (tmp_path / "Doe^Jane.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    (tmp_path / "notes.txt").write_text("no picture")
    names = ("Doe^Jane.png", "notes.txt", "gone.png", "../outside.png")
    found = images.looks(cohort(tmp_path, "image", *names), "scan", images.pictures())
    assert len(found) == 4
    for n, look in enumerate(found):
        assert look.missing
        assert f"image {n + 1}" in look.missing
        assert str(tmp_path) not in look.missing
        assert names[n] not in look.missing


def test_what_a_page_says_of_a_volume(tmp_path):
    nibabel.save(nibabel.Nifti1Image(ct_array(), np.diag([0.8, 0.7, 2.5, 1.0])), tmp_path / "v.nii")
    (look,) = images.looks(cohort(tmp_path, "volume", "v.nii"), "scan", images.pictures())
    assert look.planes == {"axial": 12, "coronal": 16, "sagittal": 20}
    assert list(look.presets) == ["soft tissue", "lung", "bone"]
    assert look.size == "20 × 16 × 12 voxels of 0.8 × 0.7 × 2.5 mm"
    assert look.lowest <= look.window.centre <= look.highest
    assert look.window.width <= look.widest


def test_only_a_few_of_many_are_shown(tmp_path):
    names = [f"i{n}" for n in range(9)]
    for n, name in enumerate(names):
        write_xray(tmp_path / name, picture(seed=n))
    found = images.looks(cohort(tmp_path, "image", *names), "scan", images.pictures())
    assert len(found) == images.SHOWN
