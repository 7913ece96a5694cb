"""Thumbnails have the right orientation, and the sheet reveals nothing confidential."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from preprocess.qc.montage import CAPTION_PIXELS, MONTAGE_VOLUMES, montage
from preprocess.qc.thumbnail import PANEL_PIXELS, thumbnail

AIR, BRIGHT = -1000, 300


def marked(index: tuple[int, int, int], shape: tuple[int, int, int] = (101, 121, 111)) -> np.ndarray:
    """Air with a bright cube of 7 voxels around `index`."""
    voxels = np.full(shape, AIR, np.int16)
    voxels[tuple(slice(i - 3, i + 4) for i in index)] = BRIGHT
    return voxels


def bright_spot(panel: np.ndarray) -> tuple[float, float]:
    """(row, column) of the bright pixels' centre, relative to the panel's middle."""
    rows, columns = np.nonzero(panel > 127)
    middle = (PANEL_PIXELS - 1) / 2
    return float(rows.mean() - middle), float(columns.mean() - middle)


def panels(picture: np.ndarray) -> list[np.ndarray]:
    assert picture.shape == (PANEL_PIXELS, 3 * PANEL_PIXELS)
    assert picture.dtype == np.uint8
    return np.split(picture, 3, axis=1)


def test_panels_follow_the_radiological_convention() -> None:
    """30 mm along an axis are 15 pixels of 2 mm: right is left, anterior and superior are up."""
    anterior_right = panels(thumbnail(marked((50, 90, 85)), (1, 1, 1)))[0]
    assert bright_spot(anterior_right) == pytest.approx((-15, -15), abs=0.6)
    superior_right = panels(thumbnail(marked((80, 60, 85)), (1, 1, 1)))[1]
    assert bright_spot(superior_right) == pytest.approx((-15, -15), abs=0.6)
    superior_anterior = panels(thumbnail(marked((80, 90, 55)), (1, 1, 1)))[2]
    assert bright_spot(superior_anterior) == pytest.approx((-15, -15), abs=0.6)


def test_distances_are_in_mm_at_any_spacing() -> None:
    coronal = panels(thumbnail(marked((60, 60, 65), (81, 121, 111)), (4, 1, 0.5)))[1]
    assert bright_spot(coronal) == pytest.approx((-20 * 4 / 2, -10 * 0.5 / 2), abs=0.6)


def test_the_brain_window_spans_0_to_80_hu() -> None:
    for hu, grey in ((-50, 0), (0, 0), (40, 128), (80, 255), (1000, 255)):
        picture = thumbnail(np.full((90, 90, 90), hu, np.int16), (3, 3, 3))
        assert picture[64, 64] == pytest.approx(grey, abs=1)


def test_a_volume_larger_than_a_panel_is_cropped_and_a_thin_one_drawn() -> None:
    assert thumbnail(np.full((3, 600, 600), 40, np.int16), (1, 1, 1))[64, :PANEL_PIXELS].min() == 128
    assert thumbnail(np.full((1, 1, 1), 40, np.int16), (1, 1, 1)).shape == (PANEL_PIXELS, 3 * PANEL_PIXELS)


def pictures(count: int, tail: str = "0" * 24) -> list[tuple[str, np.ndarray]]:
    return [(f"{i:08x}{tail}", np.full((16, 48), i, np.uint8)) for i in range(count)]


def test_a_montage_contains_the_thumbnails_pixel_by_pixel(tmp_path: Path) -> None:
    montage(pictures(6), tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    actual = [value for value in range(1, 6) if (sheet == value).sum() >= 16 * 48]
    assert actual == [1, 2, 3, 4, 5]
    assert list(tmp_path.iterdir()) == [tmp_path / "sheet.png"]


def test_a_montage_is_reproducible_without_dates_or_software(tmp_path: Path) -> None:
    montage(pictures(5), tmp_path / "a.png")
    montage(pictures(5), tmp_path / "b.png")
    content = (tmp_path / "a.png").read_bytes()
    assert content == (tmp_path / "b.png").read_bytes()
    assert chunks(content) <= {"IHDR", "pHYs", "IDAT", "IEND"}


def test_a_caption_shows_eight_digits_of_the_key_and_no_more(tmp_path: Path) -> None:
    montage(pictures(3, "1" * 24), tmp_path / "a.png")
    montage(pictures(3, "2" * 24), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    montage([("f" + key[1:], picture) for key, picture in pictures(3)], tmp_path / "c.png")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "c.png").read_bytes()


def test_a_montage_of_many_shows_evenly_spaced_volumes(tmp_path: Path) -> None:
    montage(pictures(200), tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    first_pixels = sheet[CAPTION_PIXELS :: CAPTION_PIXELS + 16, :: 48 + 2].ravel()
    shown = first_pixels[first_pixels > 0]
    assert len(shown) == MONTAGE_VOLUMES - 1  # the first volume is black like the background
    assert set(np.diff(shown.astype(int))) <= {3, 4}
    assert shown[-1] == 199


def test_an_empty_montage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        montage([], tmp_path / "sheet.png")


def chunks(png: bytes) -> set[str]:
    """The names of a PNG file's chunks."""
    names, at = set(), 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        names.add(png[at + 4 : at + 8].decode())
        at += 12 + length
    return names
