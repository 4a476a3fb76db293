"""Volumes: NIfTI against nibabel, DICOM series against the same volume as NIfTI; hostile files."""

from __future__ import annotations

import gzip
import itertools
import resource
import sys

import nibabel as nib
import numpy as np
import pytest
from pydicom.uid import JPEG2000Lossless, RLELossless, generate_uid
from scipy.spatial.transform import Rotation

from adacomed.errors import InputError
from adacomed.readers.volume import read_volume

from .dicom_files import ct_array, write_ct_series, write_xray

SPACING = np.array([0.8, 0.7, 2.5])


def write_nifti(path, hu=None, affine=None, **fields):
    """A NIfTI file of an array, header fields changed; `path` decides on gzip."""
    hu = ct_array() if hu is None else hu
    image = nib.Nifti1Image(hu, np.diag([*SPACING, 1.0]) if affine is None else affine)
    nib.save(image, path)
    if fields:
        plain = path.name.endswith(".nii")
        data = path.read_bytes() if plain else gzip.decompress(path.read_bytes())
        header = nib.Nifti1Header(data[:348], check=False)
        for name, value in fields.items():
            header[name] = value
        data = header.binaryblock + data[348:]
        path.write_bytes(data if plain else gzip.compress(data))
    return path


def affine_of(axes, flips, turn=0.0):
    """Index → mm: stored axis a runs along patient axis axes[a], the other way where flips[a]."""
    directions = np.zeros((3, 3))
    for a, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
        directions[axis, a] = -1 if flip else 1
    oblique = Rotation.from_euler("xyz", [turn, -turn / 2, turn / 3], degrees=True).as_matrix()
    return nib.affines.from_matvec(oblique @ directions * SPACING, [-31.5, 12.25, 400.0])


def check_same(volume, image):
    """The volume is what nibabel makes of the image in its closest canonical order."""
    canonical = nib.as_closest_canonical(image)
    assert volume.hu.dtype == np.float32
    assert min(volume.hu.strides) > 0  # torch.from_numpy takes it
    assert all(isinstance(step, float) for step in volume.spacing)
    np.testing.assert_allclose(volume.spacing, canonical.header.get_zooms()[:3], rtol=1e-5)
    np.testing.assert_allclose(volume.hu, canonical.get_fdata().squeeze(), atol=1e-3, rtol=0)


ORIENTATIONS = [
    (axes, flips)
    for axes in itertools.permutations(range(3))
    for flips in itertools.product([False, True], repeat=3)
]


@pytest.mark.parametrize("turn", [0.0, 17.0])
def test_nifti_and_dicom_in_all_48_orientations(tmp_path, turn):
    for i, (axes, flips) in enumerate(ORIENTATIONS):
        affine, hu = affine_of(axes, flips, turn), ct_array((7, 6, 5))
        path = write_nifti(tmp_path / f"{i}.nii", hu, affine)
        nifti, image = read_volume(path), nib.load(path)
        check_same(nifti, image)
        dicom = read_volume(write_ct_series(tmp_path / str(i), hu, affine))
        check_same(dicom, image)
        np.testing.assert_allclose(dicom.hu, nifti.hu, atol=1e-3, rtol=0)
        np.testing.assert_allclose(dicom.spacing, nifti.spacing, rtol=1e-5)


# ---- NIfTI --------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
@pytest.mark.parametrize("dtype", ["i2", "u1", "f4", ">f4", "f8", "i4"])
def test_numbers_of_every_type(tmp_path, suffix, dtype):
    hu = np.abs(ct_array()) % 250 + (0.25 if "f" in dtype else 0)
    path = write_nifti(tmp_path / f"a.{suffix}", hu.astype(dtype))
    check_same(read_volume(path), nib.load(path))


def test_scaled_numbers_a_single_frame_and_nifti_2(tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz", scl_slope=0.5, scl_inter=-1000)
    check_same(read_volume(path), nib.load(path))
    path = write_nifti(tmp_path / "b.nii", ct_array()[..., None])
    assert nib.load(path).ndim == 4
    check_same(read_volume(path), nib.load(path))
    image = nib.Nifti2Image(ct_array(), affine_of((1, 2, 0), (True, False, True)))
    nib.save(image, tmp_path / "c.nii")
    check_same(read_volume(tmp_path / "c.nii"), image)


def test_a_big_endian_file(tmp_path):
    image = nib.Nifti1Image(ct_array(), np.diag([*SPACING, 1]), nib.Nifti1Header(endianness=">"))
    nib.save(image, tmp_path / "a.nii")
    assert (tmp_path / "a.nii").read_bytes()[:4] == (348).to_bytes(4, "big")
    check_same(read_volume(tmp_path / "a.nii"), image)


def test_metres_and_micrometres_become_millimetres(tmp_path):
    for unit, factor in (("meter", 0.001), ("micron", 1000), ("mm", 1), ("unknown", 1)):
        image = nib.Nifti1Image(ct_array(), np.diag([*SPACING * factor, 1]))
        image.header.set_xyzt_units(unit)
        nib.save(image, tmp_path / "a.nii")
        np.testing.assert_allclose(read_volume(tmp_path / "a.nii").spacing, SPACING, rtol=1e-5)


NAN = float("nan")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pixdim": [1, NAN, 1, 1, 0, 0, 0, 0]}, "spacing of nan × 1 × 1 mm"),
        ({"pixdim": [1, 1, 0, 1, 0, 0, 0, 0]}, "spacing of 1 × 0 × 1 mm"),
        ({"pixdim": [1, 1, 1, np.inf, 0, 0, 0, 0]}, "spacing of 1 × 1 × inf mm"),
        ({"srow_x": [0, 0, 0, 0]}, r"spacing of 0 × |parallel"),
        ({"srow_x": [NAN] * 4}, "spacing of nan"),
        ({"srow_y": [0.8, 0, 0, 0]}, "parallel|spacing"),
        ({"dim": [3, 0, 16, 12, 1, 1, 1, 1]}, "at least one"),
        ({"dim": [3, -5, 16, 12, 1, 1, 1, 1]}, "at least one"),
        ({"dim": [3, 20, 16, 600, 1, 1, 1, 1]}, "ends before"),
        ({"dim": [3, 1024, 1024, 1024, 1, 1, 1, 1]}, "ends before"),
        ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "at most"),
        ({"dim": [3, 20, 16, 11, 1, 1, 1, 1]}, "more than its header claims"),
        ({"dim": [4, 20, 16, 6, 2, 1, 1, 1]}, "20 × 16 × 6 × 2"),
        ({"dim": [2, 20, 16, 1, 1, 1, 1, 1]}, "one 3-D volume"),
        ({"dim": [99, 20, 16, 1, 1, 1, 1, 1]}, "one 3-D volume"),
        ({"datatype": 32}, "real numbers"),  # complex64
        ({"datatype": 999}, "damaged"),
        ({"vox_offset": NAN}, "damaged"),
        ({"vox_offset": 1e12}, "ends before"),
        ({"vox_offset": -64}, "inside its header"),
        ({"scl_slope": 2, "scl_inter": NAN}, "damaged"),
        ({"scl_slope": 1e38}, "not numbers"),
        ({"magic": b"ni1"}, "half of a NIfTI"),
        ({"magic": b"xyz"}, "no known format"),
    ],
)
@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_headers_that_make_no_volume(tmp_path, fields, words, suffix):
    path = write_nifti(tmp_path / f"scan.{suffix}", **fields)
    with pytest.raises(InputError, match=words) as caught:
        read_volume(path)
    assert "scan.nii" in str(caught.value)


def test_voxels_that_make_no_volume(tmp_path):
    for value, words in ((NAN, "not numbers"), (np.inf, "not numbers")):
        hu = ct_array().astype(np.float32)
        hu[3, 4, 5] = value
        with pytest.raises(InputError, match=words):
            read_volume(write_nifti(tmp_path / "a.nii.gz", hu))
    with pytest.raises(InputError, match="one value everywhere"):
        read_volume(write_nifti(tmp_path / "a.nii.gz", np.full((4, 4, 4), 7, np.int16)))


def test_other_files(tmp_path):
    cases = {
        "empty.nii": (b"", "an empty file"),
        "noise.nii": (np.random.default_rng(0).bytes(5000), "no known format"),
        "text.nii.gz": (gzip.compress(b"hello" * 200), "no known format"),
        "gzip.nii.gz": (b"\x1f\x8b" + bytes(100), "damaged"),
        "empty.nii.gz": (gzip.compress(b""), "no known format"),
    }
    for name, (data, words) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=words) as caught:
            read_volume(tmp_path / name)
        assert name in str(caught.value)
    with pytest.raises(InputError, match="no such file"):
        read_volume(tmp_path / "none.nii")
    with pytest.raises(InputError, match=r"a DICOM file; .* folder"):
        read_volume(write_xray(tmp_path / "x.dcm"))


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_truncated_nifti_is_an_error_wherever_it_ends(tmp_path, suffix):
    data = write_nifti(tmp_path / f"a.{suffix}").read_bytes()
    for cut in np.linspace(0, len(data) - 1, 24).astype(int):
        (tmp_path / "part").write_bytes(data[:cut])
        with pytest.raises(InputError):
            read_volume(tmp_path / "part")


def test_a_gzip_bomb_takes_no_memory(tmp_path):
    """8 MB of gzip that become 8 GB: more than the small volume that the header claims."""
    path = write_nifti(tmp_path / "a.nii")
    bomb = gzip.compress(bytes(2**27), 9) * 64  # members follow one another
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(path.read_bytes()) + bomb)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="more than its header claims"):
        read_volume(tmp_path / "bomb.nii.gz")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


# ---- DICOM series -------------------------------------------------------------------------------
@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_slices_and_other_rescaling(tmp_path, syntax):
    hu = ct_array((40, 36, 4))
    expected = read_volume(write_ct_series(tmp_path / "plain", hu))
    np.testing.assert_array_equal(expected.hu, hu)
    volume = read_volume(write_ct_series(tmp_path / "packed", hu, compress=syntax, slope=0.5))
    np.testing.assert_array_equal(volume.hu, expected.hu)
    assert volume.spacing == expected.spacing


def test_hidden_files_and_a_dicomdir_are_left_out(tmp_path):
    folder = write_ct_series(tmp_path / "ct")
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    assert read_volume(folder).hu.shape == (20, 16, 12)


def shift(ds, x=0.0, y=0.0, z=0.0):
    here = zip(ds.ImagePositionPatient, (x, y, z), strict=True)
    ds.ImagePositionPatient = [f"{float(a) + b:.6f}" for a, b in here]


def put(**elements):
    def change(ds):
        for keyword, value in elements.items():
            setattr(ds, keyword, value)

    return change


def smaller(ds):
    ds.Rows, ds.PixelData = 15, ds.PixelData[: 15 * 20 * 2]


TURNED = [*(0.9659258, 0.258819, 0), *(-0.258819, 0.9659258, 0)]


@pytest.mark.filterwarnings("ignore:Invalid value for VR")  # when such a file is written
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put(Modality="MR"), "modality MR"),
        (put(NumberOfFrames=9), "multi-frame image of 9 frames"),
        (put(SeriesInstanceUID=generate_uid()), "2 series"),
        (put(GantryDetectorTilt=12.5), "tilted by 12.5°"),
        (put(PixelSpacing=[0.8, 0.9]), "pixel spacing differs"),
        (put(PixelSpacing=[0, 0.8]), "not positive"),
        (put(PixelSpacing="0.8"), "lacks PixelSpacing"),
        (put(ImageOrientationPatient=TURNED), "orientation differs"),
        (put(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "perpendicular"),
        (put(ImageOrientationPatient=[0] * 6), "perpendicular"),
        (put(ImagePositionPatient=None), "lacks ImagePositionPatient"),
        (put(ImagePositionPatient=["NaN", "0", "0"]), r"damaged|lacks"),
        (put(RescaleSlope=None), "lacks RescaleSlope"),
        (put(RescaleSlope=0, RescaleIntercept="1e39"), r"not numbers"),
        (put(Rows=0), "at least 1"),
        (put(Rows=30000, Columns=30000), "megapixels"),
        (smaller, "size differs"),
        (lambda ds: shift(ds, z=2.5), "same place"),
        (lambda ds: shift(ds, z=2.2), "too near|missing"),
        (lambda ds: shift(ds, x=1.0), "sideways"),
        (put(PixelData=b"\0" * 30), "truncated"),
        (lambda ds: delattr(ds, "PixelData"), "no pixels"),
    ],
)
def test_one_bad_slice_is_named(tmp_path, change, words):
    def change_fifth(ds, k):
        if k == 4:
            change(ds)

    folder = write_ct_series(tmp_path / "ct", change=change_fifth)
    with pytest.raises(InputError, match=words) as caught:
        read_volume(folder)
    message = str(caught.value)
    assert "ecret" not in message
    if words not in ("2 series", "not numbers"):
        assert "ct/IM" in message


@pytest.mark.parametrize("gone", [1, 5, 10])
def test_a_missing_slice_names_the_one_after_it(tmp_path, gone):
    numbers = {}

    def note(ds, k):
        numbers[k] = ds.InstanceNumber
        ds.PatientComments = f"slice {k}"

    folder = write_ct_series(tmp_path / "ct", change=note)
    lost = next(f for f in folder.iterdir() if f"slice {gone} ".encode() in f.read_bytes() + b" ")
    lost.unlink()
    with pytest.raises(InputError, match=rf"InstanceNumber {gone + 2}\): is 5 mm .* missing"):
        read_volume(folder)


@pytest.mark.parametrize(("degrees", "fits"), [(0.5, True), (1.3, False), (20.0, False)])
def test_a_tilted_gantry_shows_in_the_positions(tmp_path, degrees, fits):
    slope = np.tan(np.radians(degrees))

    def tilt(ds, k):
        shift(ds, y=k * 2.5 * slope)

    folder = write_ct_series(tmp_path / "ct", change=tilt)
    if fits:
        assert read_volume(folder).spacing[2] == pytest.approx(2.5)
    else:
        with pytest.raises(InputError, match=r"IM.*gantry tilt"):
            read_volume(folder)


def test_folders_without_a_series(tmp_path):
    folder = write_ct_series(tmp_path / "ct")
    for file in sorted(folder.iterdir())[1:]:
        file.unlink()
    with pytest.raises(InputError, match="holds 1 slices"):
        read_volume(folder)
    (folder / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match=r"notes\.txt: is a file of no known format"):
        read_volume(folder)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="holds 0 slices"):
        read_volume(tmp_path / "none")


@pytest.mark.parametrize("compress", [None, RLELossless])
def test_a_truncated_slice_is_named_wherever_it_ends(tmp_path, compress):
    folder = write_ct_series(tmp_path / "ct", compress=compress)
    expected, file = read_volume(folder).hu, folder / "IM0003"
    data, messages = file.read_bytes(), []
    for cut in np.linspace(0, len(data) - 1, 24).astype(int):
        file.write_bytes(data[:cut])
        try:
            np.testing.assert_array_equal(read_volume(folder).hu, expected)
        except InputError as error:
            messages.append(str(error))
    assert len(messages) >= 23
    assert all("IM0003" in message for message in messages)


@pytest.mark.parametrize("kind", ["nifti", "dicom"])
def test_flipped_bytes_give_a_volume_or_an_error(tmp_path, kind):
    if kind == "nifti":
        path = file = write_nifti(tmp_path / "a.nii")
        places = np.arange(348)
    else:
        path = write_ct_series(tmp_path / "ct", ct_array((8, 8, 4)))
        file = path / "IM0001"
        places = np.arange(132, file.stat().st_size - 128)
    data, rng, errors = file.read_bytes(), np.random.default_rng(0), 0
    for _ in range(120):
        hurt = np.frombuffer(data, np.uint8).copy()
        hurt[rng.choice(places, 3)] = rng.integers(0, 256, 3)
        file.write_bytes(hurt.tobytes())
        try:
            volume = read_volume(path)
        except InputError:
            errors += 1
            continue
        assert np.isfinite(volume.hu).all()
        assert min(volume.spacing) > 0
    assert 5 < errors < 120


@pytest.mark.parametrize("package", ["nibabel", "pydicom"])
def test_a_missing_package_says_how_to_get_it(tmp_path, monkeypatch, package):
    path = write_nifti(tmp_path / "a.nii") if package == "nibabel" else write_ct_series(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"{package}: pip install 'adacomed\["):
        read_volume(path)
