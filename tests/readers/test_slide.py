"""Slides through both libraries against their own pixels; hostile files."""

from __future__ import annotations

import pickle
import struct
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.readers.slide_files import halved, save_slide, tissue_image

from adacomed.errors import InputError
from adacomed.readers import slide as module
from adacomed.readers.slide import ArraySlide, FileSlide, Slide, read_slide
from adacomed.readers.slide_libraries import on_white

IMAGE = tissue_image(1200, 900, [(0.4, 0.35, 0.25)])


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_slide(tmp_path_factory.mktemp("slides") / "slide.tif", IMAGE)


@pytest.fixture(params=["openslide", "tiffslide"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The library that opens slides; the other one cannot be imported."""
    other = {"openslide": "tiffslide", "tiffslide": "openslide"}[request.param]
    monkeypatch.setitem(sys.modules, other, None)
    return request.param


def test_description_and_pixels(file: Path, library: str) -> None:
    slide = read_slide(file)
    assert isinstance(slide, FileSlide)
    assert slide.library == library
    assert (slide.width, slide.height, slide.mpp) == (1200, 900, 0.5)
    assert [(lv.width, lv.height, lv.downsample) for lv in slide.levels] == [
        (1200, 900, 1.0),
        (600, 450, 2.0),
        (300, 225, 4.0),
    ]
    for x, y in ((0, 0), (311, 207), (1200 - 256, 900 - 256)):
        assert np.array_equal(slide.read(x, y, 256, 256), IMAGE[y : y + 256, x : x + 256])
    half = halved(IMAGE)
    assert np.array_equal(slide.read(100, 40, 512, 256), half[20:276, 50:306])
    assert np.array_equal(slide.overview(300), halved(half))


def test_resampling_starts_from_the_coarsest_level_that_is_fine_enough(file: Path) -> None:
    slide = read_slide(file)
    part = Image.fromarray(halved(IMAGE)[20 : 20 + 180, 50 : 50 + 180])  # level 1, not 0 or 2
    expected = np.asarray(part.resize((128, 128), Image.Resampling.BILINEAR))
    assert np.array_equal(slide.read(100, 40, 360, 128), expected)
    odd = Image.fromarray(halved(IMAGE)[20 : 20 + 181, 50 : 50 + 181])
    box = (0.5, 0.5, 180.5, 180.5)  # starts between two pixels of level 1
    expected = np.asarray(odd.resize((128, 128), Image.Resampling.BILINEAR, box=box))
    assert np.array_equal(slide.read(101, 41, 360, 128), expected)


def test_magnifying_is_from_level_0(file: Path) -> None:
    part = Image.fromarray(IMAGE[40:140, 100:200])
    expected = np.asarray(part.resize((256, 256), Image.Resampling.BILINEAR))
    assert np.array_equal(read_slide(file).read(100, 40, 100, 256), expected)


def test_outside_is_white(file: Path, library: str) -> None:
    slide = read_slide(file)
    for one in (slide, ArraySlide(IMAGE, None)):
        corner = one.read(-100, -60, 200, 200)
        assert np.array_equal(corner[60:, 100:], IMAGE[:140, :100])
        assert (corner[:60] == 255).all()
        assert (corner[:, :100] == 255).all()
        end = one.read(1100, 850, 256, 256)
        assert np.array_equal(end[:50, :100], IMAGE[850:, 1100:])
        assert (end[50:] == 255).all()
        assert (one.read(5000, 5000, 256, 256) == 255).all()


def test_transparent_is_white() -> None:
    region = np.zeros((1, 3, 4), np.uint8)
    region[0, :, :3] = (10, 100, 200)
    region[0, :, 3] = (255, 0, 51)  # opaque, transparent, a fifth
    assert on_white(region)[0].tolist() == [[10, 100, 200], [255, 255, 255], [206, 224, 244]]
    assert on_white(np.full((2, 2, 1), 7, np.uint8)).shape == (2, 2, 3)
    with pytest.raises(ValueError, match="8-bit"):
        on_white(np.zeros((2, 2, 3), np.uint16))


def test_array_and_file_are_one_interface(file: Path, tmp_path: Path) -> None:
    flat = read_slide(save_slide(tmp_path / "flat.tif", IMAGE, levels=1))
    array = ArraySlide(IMAGE, 0.5)
    for arguments in ((3, 5, 256, 256), (100, 40, 360, 128), (7, 7, 100, 256), (-50, 0, 700, 99)):
        assert np.array_equal(flat.read(*arguments), array.read(*arguments))
    assert np.array_equal(flat.overview(333), array.overview(333))
    assert flat.overview(10**6).shape == IMAGE.shape, "never enlarged"


def test_overview_does_not_depend_on_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    slide = ArraySlide(IMAGE, None)
    whole = slide.overview(400)  # 3 × 3 pixels to one
    blocks = IMAGE.reshape(300, 3, 400, 3, 3).mean(axis=(1, 3))
    assert np.abs(whole - blocks).max() < 1  # Pillow rounds after each axis
    monkeypatch.setattr(module, "BLOCK", 64)
    assert np.array_equal(slide.overview(400), whole)
    assert slide.overview(7).shape == (5, 7, 3)


def test_pickle_threads_and_processes(file: Path, library: str) -> None:
    slide = read_slide(file)
    corners = [(x, y, 256, 128) for x in range(0, 1200, 150) for y in range(0, 900, 150)]
    expected = [slide.read(*corner) for corner in corners]
    again: Slide = pickle.loads(pickle.dumps(slide))
    assert len(pickle.dumps(slide)) < 2000
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda corner: again.read(*corner), corners))
    assert all(map(np.array_equal, found, expected))
    with ProcessPoolExecutor(1, get_context("fork")) as processes:
        assert np.array_equal(processes.submit(slide.read, *corners[3]).result(), expected[3])


@pytest.mark.parametrize(
    ("mpp", "stated"), [(None, None), (0.25, 0.25), (352.8, None), (0.001, None)]
)
def test_mpp_is_the_scanners_or_none(
    tmp_path: Path, mpp: float | None, stated: float | None, library: str
) -> None:
    """352.8 µm is what 72 dpi says."""
    slide = read_slide(save_slide(tmp_path / "s.tif", IMAGE, mpp=mpp, levels=1))
    assert slide.mpp == (None if stated is None else pytest.approx(stated, rel=1e-5))


def test_tiffslide_reads_what_openslide_does_not(tmp_path: Path) -> None:
    slide = read_slide(save_slide(tmp_path / "strips.tif", IMAGE, tile=None))
    assert isinstance(slide, FileSlide)
    assert slide.library == "tiffslide"
    assert np.array_equal(slide.read(10, 20, 64, 64), IMAGE[20:84, 10:74])


def test_no_library(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openslide", None)
    monkeypatch.setitem(sys.modules, "tiffslide", None)
    with pytest.raises(InputError, match=r"pip install 'adacomed\[slide\]'"):
        read_slide(file)


def broken(raw: bytes) -> dict[str, bytes]:
    noise = np.random.default_rng(0).bytes(5000)
    return {
        "empty": b"",
        "noise": noise,
        "magic, then noise": b"II*\0" + noise,
        "another format": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "cut in the first header": raw[:300],
        "cut in half": raw[: len(raw) // 2],
        "end missing": raw[:-2000],
    }


@pytest.mark.parametrize("name", broken(b""))
def test_broken_files(file: Path, tmp_path: Path, name: str, library: str, capfd) -> None:
    path = tmp_path / "broken.tif"
    path.write_bytes(broken(file.read_bytes())[name])
    with pytest.raises(InputError, match=r"broken\.tif: not a whole-slide image") as error:
        read_slide(path)
    assert "openslide" in str(error.value)
    assert "tiffslide" in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_damage_between_the_ends_is_found_when_it_is_read(file: Path, tmp_path: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[20_000:60_000] = bytes(40_000)
    path = tmp_path / "damaged.tif"
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"damaged.tif: damaged or of an unsupported kind"):
        read_slide(path).overview(1200)


def test_no_such_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_slide(tmp_path / "absent.svs")
    with pytest.raises(InputError, match="not a whole-slide image"):
        read_slide(tmp_path)


def claim(path: Path, width: int, height: int, tile: int | None) -> Path:
    """A TIFF of some 200 bytes that claims to be huge; tile None: one strip."""
    entries = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (277, 3, 1),
    ]
    pieces = 1
    if tile is None:
        entries += [(273, 4, 8), (278, 4, height), (279, 4, 16)]
    else:
        pieces = -(-width // tile) * -(-height // tile)
        entries += [(322, 4, tile), (323, 4, tile), (324, 4, 8), (325, 4, 16)]
    head = struct.pack("<2sHI", b"II", 42, 24) + bytes(16)
    body = b"".join(
        struct.pack("<HHII", tag, kind, pieces if tag in (324, 325) else 1, value)
        for tag, kind, value in entries
    )
    path.write_bytes(head + struct.pack("<H", len(entries)) + body + bytes(4))
    return path


@pytest.mark.parametrize(
    ("width", "height", "tile"),
    [
        (2_000_000, 2_000_000, 2_000_000 // 16 * 16),
        (900_000, 900_000, 60_000 // 16 * 16),
        (900_000, 900_000, None),
        (200_000, 200_000, 200_000),
        (2**31 - 1, 2**31 - 1, None),
    ],
)
def test_absurd_claims(
    tmp_path: Path, width: int, height: int, tile: int | None, library: str
) -> None:
    path = claim(tmp_path / "claim.tif", width, height, tile)
    with pytest.raises(InputError, match=r"claim\.tif"):
        read_slide(path)


def test_one_huge_level_is_refused_before_it_is_read() -> None:
    class Sparse(ArraySlide):
        def _pixels(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
            raise AssertionError("read")

    slide = Sparse(IMAGE, 0.5)
    slide.levels = (module.Level(300_000, 300_000, 1.0),)
    with pytest.raises(InputError, match="no reduced level; write it as a pyramid"):
        slide.overview(1000)
    with pytest.raises(InputError, match="no reduced level near that"):
        slide.read(0, 0, 50_000, 256)


@pytest.mark.parametrize("pixels", [IMAGE[..., 0], IMAGE.astype(np.float32), IMAGE[:0]])
def test_array_slide_refuses_other_arrays(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        ArraySlide(pixels, None)
    with pytest.raises(ValueError, match="mpp"):
        ArraySlide(IMAGE, float("nan"))
