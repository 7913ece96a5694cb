"""docs/other-readers.md: what other readers make of series that ours reads right, in mm of displacement.

The slices sample HU that are linear in patient coordinates, so that each voxel's value says where it lies, to
be held against where a reader says that it lies.
"""

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from dicom_files import Acquisition, axial, ramp, scanned
from documents import REPOSITORY
from pydicom import dcmread
from test_dcm2niix import dcm2niix, raw_field

GRADIENT = float(np.linalg.norm([3.0, -5.0, 4.0]))
"""HU of `ramp` a millimetre."""
DOCUMENT = REPOSITORY / "docs" / "other-readers.md"
Read = tuple[np.ndarray, np.ndarray]
"""Values (K,), and the points (K, 3), LPS mm, at which the reader says that they lie."""


def tilted(degrees: float) -> Acquisition:
    """The gantry leans, and the table moves along the patient."""
    lean = np.radians(degrees)
    straight = axial(slices=20)
    return Acquisition(straight.positions, row_step=np.array([0, np.cos(lean), -np.sin(lean)]))


def series(kind: str, folder: Path) -> Path:
    """A series' files."""
    heights = {"thin and thick slices": [0, 5, 10, 15, 20, 30, 40, 50]}.get(kind, [5 * k for k in range(12)])
    straight = Acquisition(np.array([-70, -60, 10]) + np.array(heights)[:, None] * np.array([0, 0, 1]))
    if kind == "enhanced CT, an intercept a frame":
        data = straight.write_frames(folder / "frames", ramp, enhanced=True)
        pixels = data.pixel_array.copy()
        for number, frame in enumerate(data.PerFrameFunctionalGroupsSequence):
            intercept = -50 * (number % 3)
            frame.PixelValueTransformationSequence[0].RescaleIntercept = intercept
            pixels[number] -= intercept
        data.PixelData = pixels.tobytes()
        data.save_as(folder / "frames")
        return folder
    acquisition = {"tilted by 18 degrees": tilted(18), "tilted by -14 degrees": tilted(-14)}.get(
        kind, straight
    )
    acquisition.write(folder, ramp)
    numbers = list(range(1, len(acquisition.positions) + 1))
    if kind == "numbered by halves":
        numbers = numbers[::2] + numbers[1::2]
    for number, path in zip(numbers, sorted(folder.iterdir()), strict=True):
        data = dcmread(path)
        data.InstanceNumber, data.SeriesNumber, data.AcquisitionNumber = number, 1, 1
        data.save_as(path)
    return folder


KINDS = (
    *("straight", "numbered by halves", "thin and thick slices"),
    *("tilted by 18 degrees", "tilted by -14 degrees", "enhanced CT, an intercept a frame"),
)


def by_ours(folder: Path, _: Path) -> Read:
    voxels, points = raw_field(scanned(folder)[0], (2.5, 3.0, 3.0))
    return voxels.ravel(), points.reshape(-1, 3)


def by_simpleitk(folder: Path, _: Path) -> Read:
    files = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    image = SimpleITK.ReadImage(files if len(files) > 1 else files[0])
    values = SimpleITK.GetArrayFromImage(image)
    index = np.stack(np.indices(values.shape)[::-1], axis=-1).reshape(-1, 3) * image.GetSpacing()
    return values.ravel(), index @ np.array(image.GetDirection()).reshape(3, 3).T + image.GetOrigin()


def by_dcm2niix(folder: Path, out: Path, derived: bool) -> Read:
    """Of the image as it was converted, or of what the program derives from that, where it does."""
    images = dcm2niix(folder, out)
    image = images[max(images, key=len)] if derived else images[""]
    values = np.asarray(image.dataobj, np.float32)
    index = np.stack(np.indices(values.shape), axis=-1).reshape(-1, 3)
    return values.ravel(), nibabel.affines.apply_affine(image.affine, index) * [-1, -1, 1]


READERS: dict[str, Callable[[Path, Path], Read]] = {
    "fmct-hpc": by_ours,
    f"SimpleITK {SimpleITK.Version.VersionString()}": by_simpleitk,
    "dcm2niix 1.0.20220720": lambda folder, out: by_dcm2niix(folder, out, derived=False),
    "dcm2niix 1.0.20220720, what it derives": lambda folder, out: by_dcm2niix(folder, out, derived=True),
}


def displacement(read: Read) -> float:
    """mm by which the values lie elsewhere than it is said, along the ramp: three quarters lie within."""
    values, points = read
    inside = values > -200  # not the air around the slices; of what is interpolated with it there is little
    return float(np.quantile(np.abs(values - ramp(points))[inside], 0.75) / GRADIENT)


def documented() -> dict[str, dict[str, float]]:
    """The document's table: mm by kind of series and reader."""
    rows = [line.strip("| ").split("|") for line in DOCUMENT.read_text().splitlines() if line.startswith("|")]
    head, _, *lines = [[cell.strip() for cell in row] for row in rows]
    return {kind: dict(zip(head[1:], map(float, cells), strict=True)) for kind, *cells in lines}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_is_off_by_what_the_document_says(kind: str, reader: str, tmp_path: Path) -> None:
    folder = series(kind, tmp_path / "series")
    found = displacement(READERS[reader](folder, tmp_path / "out"))
    assert found == pytest.approx(documented()[kind][reader], abs=0.15)


def test_ours_is_right_for_each_kind_that_the_document_has() -> None:
    table = documented()
    assert set(table) == set(KINDS)
    assert all(row["fmct-hpc"] <= 0.2 for row in table.values())
