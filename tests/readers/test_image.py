"""Images against Pillow and pydicom; hostile files; sizes claimed."""

from __future__ import annotations

import io
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from adacomed.errors import InputError
from adacomed.readers.image import read_image

from .dicom_files import picture, write_xray

GREY = (picture(top=255)).astype(np.uint8)
COLOUR = np.stack([GREY, GREY.T.repeat(2, 0)[:48, :40], 255 - GREY], axis=-1)


def close(image, expected, atol=1e-6):
    expected = expected[..., None] if expected.ndim == 2 else expected
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, expected, atol=atol, rtol=0)


def path_of(name):
    return Path(get_testdata_file(name, download=False))


# ---- PNG and JPEG -------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
def test_eight_bits_are_what_pillow_says_over_255(tmp_path, suffix, pixels):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels).save(path)
    close(read_image(path), np.asarray(Image.open(path)) / 255)


def test_sixteen_bits_are_scaled_by_their_range_and_not_clipped(tmp_path):
    pixels = picture(top=65535)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    close(image, pixels / 65535)
    assert len(np.unique(image)) > 1000


def test_modes_of_pillow(tmp_path):
    grey, colour = Image.fromarray(GREY), Image.fromarray(COLOUR)
    alpha = Image.fromarray(255 - GREY // 2)
    ramp = (255 - GREY // 2)[..., None] / 255
    palette = colour.quantize(16)
    cases = {
        "bits.png": (grey.convert("1"), np.asarray(grey.convert("1"), dtype=float)),
        "palette.png": (palette, np.asarray(palette.convert("RGB")) / 255),
        "la.png": (Image.merge("LA", [grey, alpha]), GREY[..., None] / 255 * ramp),
        "rgba.png": (Image.merge("RGBA", [*colour.split(), alpha]), COLOUR / 255 * ramp),
    }
    for name, (made, expected) in cases.items():
        made.save(tmp_path / name)
        close(read_image(tmp_path / name), expected)
    colour.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    close(read_image(tmp_path / "cmyk.jpg"), COLOUR / 255, atol=0.25)  # lossy


def test_transparent_palette_entries_are_black(tmp_path):
    palette = Image.fromarray(COLOUR).quantize(16)
    palette.save(tmp_path / "holes.png", transparency=0)
    image = read_image(tmp_path / "holes.png")
    holes = np.asarray(palette) == 0
    assert (image[holes] == 0).all()
    expected = np.asarray(palette.convert("RGB")) / 255
    np.testing.assert_allclose(image[~holes], expected[~holes], atol=1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    turned = {
        **{1: GREY, 2: GREY[:, ::-1], 3: GREY[::-1, ::-1], 4: GREY[::-1]},
        **{5: GREY.T, 6: np.rot90(GREY, -1), 7: GREY[::-1, ::-1].T, 8: np.rot90(GREY)},
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(GREY).save(tmp_path / "a.png", exif=exif)
    close(read_image(tmp_path / "a.png"), turned[orientation] / 255)


def test_kind_is_found_by_bytes_not_by_name(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.dcm")
    close(read_image(tmp_path / "a.dcm"), GREY / 255)


# ---- DICOM --------------------------------------------------------------------------------------
def by_pydicom(path):
    """Brightness 0 … 1 by pydicom's own functions, for files with a window or VOI LUT."""
    ds = pydicom.dcmread(path)
    values = apply_modality_lut(ds.pixel_array, ds)
    shown = apply_voi_lut(values, ds).astype(np.float64)
    if "VOILUTSequence" in ds:
        low, high = 0, 2 ** ds.VOILUTSequence[0].LUTDescriptor[2] - 1
    else:
        low, high = 0, 2**ds.BitsStored - 1
        if "ModalityLUTSequence" in ds:
            high = 2 ** ds.ModalityLUTSequence[0].LUTDescriptor[2] - 1
        elif "RescaleSlope" in ds:
            low, high = (end * ds.RescaleSlope + ds.RescaleIntercept for end in (low, high))
    grey = (shown - low) / (high - low)
    return 1 - grey if ds.PhotometricInterpretation == "MONOCHROME1" else grey


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("rescale", [{}, {"RescaleSlope": 1.5, "RescaleIntercept": -300}])
def test_windows_are_those_of_pydicom(tmp_path, photometric, function, rescale):
    window = {"WindowCenter": [1500, 40], "WindowWidth": [1200, 400]}  # the first of two
    if function:
        window["VOILUTFunction"] = function
    path = write_xray(tmp_path / "x", photometric=photometric, **window, **rescale)
    image = read_image(path)
    close(image, by_pydicom(path), atol=2e-6)
    assert image.max() - image.min() > 0.9


def lut(entries, first, bits, data):
    item = pydicom.Dataset()
    item.LUTDescriptor = [entries % 65536, first, bits]
    item.LUTData = data
    item["LUTDescriptor"].VR = "US"
    item["LUTData"].VR = "OW" if isinstance(data, bytes) else "US"
    return Sequence([item])


@pytest.mark.parametrize("words", [True, False], ids=["OW", "US"])
@pytest.mark.parametrize("keyword", ["VOILUTSequence", "ModalityLUTSequence"])
def test_look_up_tables_are_those_of_pydicom(tmp_path, keyword, words):
    table = (65535 * np.linspace(0, 1, 2000) ** 2).astype("<u2")
    item = lut(2000, 500, 16, table.tobytes() if words else table.tolist())
    window = {"WindowCenter": 30000, "WindowWidth": 50000} if keyword[0] == "M" else {}
    path = write_xray(tmp_path / "x", **{keyword: item}, **window)
    close(read_image(path), by_pydicom(path), atol=2e-6)


@pytest.mark.parametrize("packed", [True, False])
def test_an_eight_bit_table_of_4096_entries(tmp_path, packed):
    """Not against pydicom, whose index overflows in this case."""
    table = (np.arange(4096) // 16).astype(np.uint8)
    data = table.tobytes() if packed else table.astype("<u2").tobytes()
    path = write_xray(tmp_path / "x", VOILUTSequence=lut(4096, 0, 8, data))
    close(read_image(path), (picture() // 16) / 255)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_without_a_window_the_full_range_of_the_image(tmp_path, photometric):
    pixels = picture() // 3 + 100
    grey = (pixels - pixels.min()) / np.ptp(pixels).astype(float)
    path = write_xray(tmp_path / "x", pixels, photometric=photometric)
    close(read_image(path), 1 - grey if photometric == "MONOCHROME1" else grey)
    padded = pixels.astype(np.int16)
    padded[:5] = -2000
    path = write_xray(tmp_path / "x", padded, bits=16, PixelPaddingValue=-2000)
    low, high = padded[5:].min(), padded[5:].max()
    close(read_image(path), np.clip((padded - low) / float(high - low), 0, 1))


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_without_loss(tmp_path, syntax):
    plain, packed = write_xray(tmp_path / "a"), write_xray(tmp_path / "b", compress=syntax)
    assert pydicom.dcmread(packed).file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(read_image(packed), read_image(plain))


@pytest.mark.parametrize(
    "name", ["jpeg_ls_lossless", "jp2klossless", "RLE", "implicit", "bigendian"]
)
def test_pydicoms_own_files_in_other_syntaxes(name):
    expected = read_image(path_of("MR_small.dcm"))
    np.testing.assert_array_equal(read_image(path_of(f"MR_small_{name}.dcm")), expected)


@pytest.mark.parametrize("photometric", ["YBR_FULL_422", "MONOCHROME2"])
def test_jpeg_baseline_is_what_pillow_decodes(tmp_path, photometric):
    pixels, packed = COLOUR if photometric[0] == "Y" else GREY, io.BytesIO()
    Image.fromarray(pixels).save(packed, "JPEG", quality=95)
    path = write_jpeg_in_dicom(tmp_path / "x", pixels, packed.getvalue(), photometric)
    decoded = np.asarray(Image.open(packed)).astype(float)
    if photometric == "MONOCHROME2":  # a centre without a width is no window
        decoded = (decoded - decoded.min()) / np.ptp(decoded) * 255
    image = read_image(path)
    close(image, decoded.reshape(image.shape) / 255, atol=5 / 255)  # decoders round differently
    assert np.abs(image - decoded.reshape(image.shape) / 255).mean() < 1 / 255


def test_what_follows_the_frame_is_left_out(tmp_path):
    plain = write_xray(tmp_path / "a")
    longer = write_xray(tmp_path / "b", PixelData=picture().tobytes() * 2)
    np.testing.assert_array_equal(read_image(longer), read_image(plain))


def test_colours(tmp_path):
    close(read_image(write_xray(tmp_path / "a", COLOUR, photometric="RGB")), COLOUR / 255)
    ybr = np.asarray(Image.fromarray(COLOUR).convert("YCbCr"))
    path = write_xray(tmp_path / "b", ybr, photometric="YBR_FULL")
    close(read_image(path), COLOUR / 255, atol=3 / 255)
    tables = {}
    for name, ramp in (("Red", 1), ("Green", 2), ("Blue", 3)):
        tables[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        table = (np.arange(256) * 257 // ramp).astype("<u2")
        tables[f"{name}PaletteColorLookupTableData"] = table.tobytes()
    path = write_xray(tmp_path / "c", GREY, photometric="PALETTE COLOR", **tables)
    expected = np.stack([GREY.astype(int) * 257 // ramp for ramp in (1, 2, 3)], axis=-1) / 65535
    close(read_image(path), expected)


# ---- hostile and degenerate ---------------------------------------------------------------------
def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_claiming(width, height):
    """A PNG of zeros whose header claims a size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    marks = chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + marks


def jpeg_claiming(width, height):
    packed = io.BytesIO()
    Image.fromarray(GREY).save(packed, "JPEG")
    data = bytearray(packed.getvalue())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "an empty file"),
        (b"hello, not an image", "no known format"),
        (b"GIF89a" + bytes(50), "a GIF image"),
        (b"%PDF-1.7" + bytes(50), "a PDF"),
        (b"\x1f\x8b" + bytes(50), "gzip"),
        (png_claiming(11000, 10000), "at most 100 megapixels"),
        (png_claiming(60000, 60000), "100 megapixels"),
        (png_claiming(0, 10), r"damaged|at least 1"),
        (png_claiming(400, 400), "truncated or damaged"),
        (jpeg_claiming(11000, 10000), "at most 100 megapixels"),
        (jpeg_claiming(65000, 65000), "100 megapixels"),
        (bytes(128) + b"DICM", "truncated"),
        (bytes(128) + b"DICM" + bytes(range(256)), r"truncated|damaged"),
    ],
)
def test_files_that_are_no_image(tmp_path, data, words):
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(InputError, match=words) as caught:
        read_image(tmp_path / "a.png")
    assert "a.png" in str(caught.value)


def test_no_file_and_a_folder(tmp_path):
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(InputError, match=r"no such file|a folder"):
            read_image(path)


def test_one_value_everywhere(tmp_path):
    Image.new("RGB", (9, 9), (10, 20, 30)).save(tmp_path / "a.png")
    write_xray(tmp_path / "b", np.full((8, 8), 7, np.uint16))
    write_xray(tmp_path / "c", WindowCenter=30000, WindowWidth=10)  # all below the window
    for name in ("a.png", "b", "c"):
        with pytest.raises(InputError, match="one value everywhere"):
            read_image(tmp_path / name)


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ({"NumberOfFrames": 7}, "7 frames"),
        ({"Rows": 20000, "Columns": 20000}, "at most 100 megapixels"),
        ({"Rows": 9000, "Columns": 9000}, "truncated or damaged"),
        ({"Rows": 0}, "at least 1"),
        ({"Rows": None}, "damaged"),
        ({"PixelData": None}, "no pixels"),
        ({"PhotometricInterpretation": "HSV"}, "HSV"),
        ({"PhotometricInterpretation": None}, "damaged"),
        ({"WindowCenter": 9, "WindowWidth": 0}, "window width 0"),
        ({"WindowCenter": 9, "WindowWidth": 9, "VOILUTFunction": "CUBIC"}, "CUBIC"),
        ({"VOILUTSequence": Sequence([pydicom.Dataset()])}, "damaged"),
    ],
)
def test_dicom_files_that_cannot_be_shown(tmp_path, elements, words):
    path = write_xray(tmp_path / "x.dcm", **elements)
    with pytest.raises(InputError, match=words) as caught:
        read_image(path)
    assert "x.dcm" in str(caught.value)
    assert "ecret" not in str(caught.value)


def write_jpeg_in_dicom(path, pixels, packed, photometric):
    write_xray(path, pixels, photometric=photometric, WindowCenter=128)
    ds = pydicom.dcmread(path)
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds.PixelData = encapsulate([packed])
    ds["PixelData"].is_undefined_length = True
    ds.save_as(path, enforce_file_format=True)
    return path


def test_compressed_pixels_that_claim_another_size(tmp_path):
    packed = jpeg_claiming(65000, 64000)
    path = write_jpeg_in_dicom(tmp_path / "x", GREY, packed, "MONOCHROME2")
    with pytest.raises(InputError, match="65000 × 64000 but its header says 40 × 48"):
        read_image(path)
    path = write_xray(tmp_path / "x", compress=JPEG2000Lossless)
    data = path.read_bytes()
    at = data.index(b"\xff\x4f\xff\x51") + 8
    path.write_bytes(data[:at] + struct.pack(">II", 60000, 60000) + data[at + 8 :])
    with pytest.raises(InputError, match="60000 × 60000 but its header says 40 × 48"):
        read_image(path)


def test_a_syntax_without_decoder_and_a_deflated_file(tmp_path):
    path = write_xray(tmp_path / "x")
    ds = pydicom.dcmread(path)
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"  # MPEG-4
    ds.PixelData = encapsulate([b"abcd"])
    ds["PixelData"].is_undefined_length = True
    ds.save_as(path, enforce_file_format=True)
    with pytest.raises(InputError, match=r"MPEG-4.* cannot be decoded"):
        read_image(path)
    with pytest.raises(InputError, match="deflated"):
        read_image(path_of("image_dfl.dcm"))


KINDS = ["png", "png16", "jpg", "dcm", "rle", "j2k"]


def valid_file(folder, kind):
    path = folder / f"whole.{kind}"
    if kind in ("png", "jpg"):
        Image.fromarray(COLOUR).save(path)
    elif kind == "png16":
        Image.fromarray(picture(top=65535)).save(path, "PNG")
    else:
        write_xray(path, compress={"rle": RLELossless, "j2k": JPEG2000Lossless}.get(kind))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_files_give_the_image_or_an_error(tmp_path, kind):
    whole = valid_file(tmp_path, kind)
    data, expected, errors = whole.read_bytes(), read_image(whole), 0
    part = tmp_path / "part"
    cuts = [*np.linspace(0, len(data) - 1, 24).astype(int), len(data) - 2, len(data) - 9]
    for cut in cuts:
        part.write_bytes(data[:cut])
        try:
            np.testing.assert_array_equal(read_image(part), expected)
        except InputError:
            errors += 1
    assert errors >= 20


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bytes_give_an_image_or_an_error(tmp_path, kind):
    data = valid_file(tmp_path, kind).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(40):
        hurt = np.frombuffer(data, np.uint8).copy()
        places = rng.integers(0, len(data), 3)
        hurt[places] = rng.integers(0, 256, 3)
        (tmp_path / "hurt").write_bytes(hurt.tobytes())
        try:
            image = read_image(tmp_path / "hurt")
        except InputError:
            continue
        assert image.ndim == 3
        assert image.shape[2] in (1, 3)
        assert image.min() >= 0
        assert image.max() <= 1


def test_pydicoms_warnings_stay_out_of_sight(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = write_xray(tmp_path / "x")
        path.write_bytes(path.read_bytes().replace(b"secret-id", b"secret\xffid"))
        read_image(path)


@pytest.mark.parametrize("package", ["PIL", "pydicom"])
def test_a_missing_package_says_how_to_get_it(tmp_path, monkeypatch, package):
    path = valid_file(tmp_path, "png" if package == "PIL" else "dcm")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=r"pip install 'adacomed\[image\]'"):
        read_image(path)
