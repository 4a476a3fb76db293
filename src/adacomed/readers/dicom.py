"""DICOM parts that images and CT series share: headers, bounded decoding, modality values.

Source: DICOM PS3.3 C.7.6.3 (image pixels), C.11.1 (modality LUT); PS3.5 A.4 (compressed pixels).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adacomed.errors import InputError
from adacomed.readers.decoding import check_size, decoding

if TYPE_CHECKING:
    from pydicom import Dataset

DEFLATED = "1.2.840.10008.1.2.1.99"
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def read_dicom(path: Path, *, only: Sequence[str] | None = None) -> Dataset:
    """Read a DICOM file.

    Args:
        path: a file with the DICM mark.
        only: keywords of the elements to keep; the pixels are then not read.
    Returns:
        The elements, pixels not decoded.
    Raises:
        InputError: damaged, deflated as a whole, or pydicom is missing.
    """
    try:
        from pydicom import dcmread
        from pydicom.filereader import read_file_meta_info
    except ImportError:
        raise InputError("DICOM files need pydicom: pip install 'adacomed[image]'") from None
    with decoding(path, "the DICOM file"):
        # pydicom would inflate a deflated file without a limit
        if read_file_meta_info(path).get("TransferSyntaxUID") == DEFLATED:
            raise InputError(
                f"{path}: is deflated as a whole; one written as Explicit VR Little Endian "
                f"(dcmconv +te) would work"
            )
        if only is None:
            return dcmread(path)
        return dcmread(path, stop_before_pixels=True, specific_tags=list(only))


def decode_pixels(path: Path, dataset: Dataset) -> NDArray[Any]:
    """Decode the pixels of a single-frame image.

    Args:
        path: names the file in errors.
        dataset: of `read_dicom`, with pixels.
    Returns:
        Stored values, (rows, columns) or (rows, columns, 3), in the file's own integer type; YBR
        colours are already RGB.
    Raises:
        InputError: no pixels, several frames, too many pixels claimed, damaged, or compressed in a
            way that needs a missing plug-in.
    """
    if not any(keyword in dataset for keyword in PIXELS):
        raise InputError(
            f"{path}: holds no pixels, or is truncated before them; an image would work"
        )
    with decoding(path, "the DICOM image"):
        frames = int(dataset.get("NumberOfFrames") or 1)
        if frames != 1:
            raise InputError(f"{path}: holds {frames} frames; a single-frame image would work")
        check_size(path, int(dataset.Columns), int(dataset.Rows))
        _check_compression(path, dataset)

        from pydicom.pixels.utils import pixel_array

        return pixel_array(dataset, index=0)


def modality_values(dataset: Dataset, pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Stored values → what the modality measures (Hounsfield units in CT), same shape.

    By the modality LUT, or by rescale slope and intercept, or as they are.
    """
    luts = dataset.get("ModalityLUTSequence")
    if luts:
        return look_up(luts[0], pixels)[0]
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    values = pixels.astype(np.float32)
    if slope is not None and intercept is not None:
        values *= np.float32(slope)
        values += np.float32(intercept)
    return values


def look_up(item: Dataset, values: NDArray[Any]) -> tuple[NDArray[np.float32], float]:
    """Map values by an item of a modality or VOI LUT sequence; those outside take the end entries.

    Returns:
        Mapped values, same shape, and the largest value that the table's bits allow.
    """
    entries, first, bits = (int(number) for number in item.LUTDescriptor)
    data = item.LUTData
    if isinstance(data, bytes):  # VR OW: 16-bit words, or 8-bit entries packed
        entries = entries % 2**16 or 2**16
        order = ">" if item.is_little_endian is False else "<"
        data = np.frombuffer(data, np.uint8 if len(data) < 2 * entries else f"{order}u2")[:entries]
    table = np.atleast_1d(np.asarray(data)).astype(np.float32)
    index = np.clip(values - np.float32(first), 0, len(table) - 1).astype(np.int64)
    return table[index], float(2**bits - 1)


def _check_compression(path: Path, dataset: Dataset) -> None:
    """Refuse pixels that no plug-in decodes, or whose own header claims another size."""
    from pydicom.encaps import get_frame
    from pydicom.pixels.decoders.base import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        available = get_decoder(syntax).is_available
    except RuntimeError:  # pydicom knows no decoder for it
        raise InputError(
            f"{path}: pixels in the transfer syntax {syntax.name} cannot be decoded; uncompressed, "
            f"RLE, JPEG, JPEG-LS or JPEG 2000 would work"
        ) from None
    if not available:
        raise InputError(
            f"{path}: pixels in the transfer syntax {syntax.name} need pylibjpeg: "
            f"pip install 'adacomed[image]'"
        )
    if not syntax.is_encapsulated:
        return
    claimed = codestream_size(get_frame(dataset.PixelData, 0, number_of_frames=1))
    if claimed not in (None, (dataset.Columns, dataset.Rows)):
        raise InputError(
            f"{path}: its compressed pixels are {claimed[0]} × {claimed[1]} but its header says "
            f"{dataset.Columns} × {dataset.Rows}; an intact file would work"
        )


def codestream_size(data: bytes) -> tuple[int, int] | None:
    """(columns, rows) that a JPEG, JPEG-LS or JPEG 2000 codestream claims; None for another."""
    start = data.find(b"\xff\x4f\xff\x51", 0, 1024)  # JPEG 2000: SOC, SIZ; JP2 boxes may precede
    if start >= 0:
        x1, y1, x0, y0 = (int.from_bytes(data[i : i + 4]) for i in range(start + 8, start + 24, 4))
        return x1 - x0, y1 - y0
    at = 2
    while data[:2] == b"\xff\xd8" and at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill
            at += 1
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return int.from_bytes(data[at + 7 : at + 9]), int.from_bytes(data[at + 5 : at + 7])
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return None
