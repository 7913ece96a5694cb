"""docs/other-readers.md: how other readers read series that ours reads correctly.

The slices sample HU that are linear in patient coordinates, so that each voxel's value gives its true
position, to compare with the position that a reader gives.
"""

import re
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import pytest
import SimpleITK
from dicom_files import Acquisition, ramp, scanned
from documents import REPOSITORY
from pydicom import dcmread
from scipy.spatial import KDTree
from test_dcm2niix import dcm2niix, raw_field

GRADIENT = float(np.linalg.norm([3.0, -5.0, 4.0]))
"""HU per millimetre of `ramp`."""
REACH_MM = 3.4
"""Half the diagonal of a voxel of 3 x 3 x 5 mm, of the slices: every point has a voxel as near."""
DOCUMENT = REPOSITORY / "docs" / "other-readers.md"
Read = tuple[np.ndarray, np.ndarray]
"""Values (K,), and the points (K, 3), LPS mm, that the reader gives for them."""


class Scan(NamedTuple):
    """A series' files, and the middle of each slice's image: (N, 3) LPS mm."""

    folder: Path
    middles: np.ndarray


def acquisition_of(kind: str) -> Acquisition:
    """The gantry may be tilted; the table moves along the patient."""
    tilted = re.search(r"tilted by (-?\d+)", kind)
    heights = [5.0 * k for k in range(20 if tilted else 12)]
    if "thin and thick" in kind:
        heights = [0, 5, 10, 15, 20, 30, 40, 50]
    lean = np.radians(float(tilted[1])) if tilted else 0.0
    positions = np.array([-70, -60, 10]) + np.array(heights)[:, None] * np.array([0, 0, 1])
    return Acquisition(positions, row_step=np.array([0, np.cos(lean), -np.sin(lean)]))


def series(kind: str, folder: Path) -> Scan:
    """Write a series."""
    acquisition = acquisition_of(kind)
    rows, columns = acquisition.matrix
    scan = Scan(
        folder, np.array([acquisition.points(p)[rows // 2, columns // 2] for p in acquisition.positions])
    )
    if kind == "enhanced CT, an intercept a frame":
        data = acquisition.write_frames(folder / "frames", ramp, enhanced=True)
        pixels = data.pixel_array.copy()
        for number, frame in enumerate(data.PerFrameFunctionalGroupsSequence):
            intercept = -50 * (number % 3)
            frame.PixelValueTransformationSequence[0].RescaleIntercept = intercept
            pixels[number] -= intercept
        data.PixelData = pixels.tobytes()
        data.save_as(folder / "frames")
        return scan
    acquisition.write(folder, ramp)
    numbers = list(range(1, len(acquisition.positions) + 1))
    if kind == "numbered by halves":
        numbers = numbers[::2] + numbers[1::2]
    for number, path in zip(numbers, sorted(folder.iterdir()), strict=True):
        data = dcmread(path)
        data.InstanceNumber, data.SeriesNumber, data.AcquisitionNumber = number, 1, 1
        data.save_as(path)
    return scan


KINDS = (
    *("straight", "numbered by halves", "thin and thick slices"),
    *("tilted by 18 degrees", "tilted by -14 degrees", "tilted by 18 degrees, thin and thick slices"),
    "enhanced CT, an intercept a frame",
)


def by_ours(folder: Path) -> Read:
    voxels, points = raw_field(scanned(folder)[0], (2.5, 1.0, 1.0))
    return voxels.ravel(), points.reshape(-1, 3)


def of_itk(image: SimpleITK.Image) -> Read:
    values = SimpleITK.GetArrayFromImage(image)
    index = np.stack([*np.indices(values.shape)[::-1]], axis=-1).reshape(-1, 3) * image.GetSpacing()
    return values.ravel(), index @ np.array(image.GetDirection()).reshape(3, 3).T + image.GetOrigin()


def of_nifti(voxels: np.ndarray, to_ras: np.ndarray) -> Read:
    index = np.stack([*np.indices(voxels.shape)], axis=-1).reshape(-1, 3)
    return voxels.ravel(), nibabel.affines.apply_affine(to_ras, index) * [-1, -1, 1]


def by_simpleitk(folder: Path) -> Read:
    files = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    return of_itk(SimpleITK.ReadImage(files if len(files) > 1 else files[0]))


def by_monai(folder: Path, reader: str) -> Read:
    from monai.transforms import LoadImage

    image = LoadImage(reader=reader, image_only=True)(folder)
    return of_nifti(image.numpy(), image.affine.numpy())


@cache
def converted(folder: Path) -> dict[str, nibabel.Nifti1Image]:
    return dcm2niix(folder, folder.parent / "nii")


def by_dcm2niix(folder: Path, derived: bool = False, itk: bool = False) -> Read:
    """Of the converted image, or of the image that the program derives from it, if any."""
    images = converted(folder)
    image = images[max(images, key=len)] if derived else images[""]
    if itk:
        file = image.get_filename()
        assert file is not None
        return of_itk(SimpleITK.ReadImage(file))
    return of_nifti(np.asarray(image.dataobj, np.float32), image.affine)


DCM2NIIX = "dcm2niix 1.0.20220720"
MONAI_READERS = ("ITKReader", "PydicomReader") if find_spec("itk") else ("PydicomReader",)
"""itk takes 1.5 GB, and is not a test dependency."""
READERS: dict[str, Callable[[Path], Read]] = {
    "fmct-hpc": by_ours,
    f"SimpleITK {version('SimpleITK')}": by_simpleitk,
    **{f"MONAI {version('monai')}, {name}": partial(by_monai, reader=name) for name in MONAI_READERS},
    f"{DCM2NIIX}, by nibabel": by_dcm2niix,
    f"{DCM2NIIX}, by SimpleITK": lambda folder: by_dcm2niix(folder, itk=True),
    "what dcm2niix derives, by either": lambda folder: by_dcm2niix(folder, derived=True),
}


@pytest.fixture(scope="module")
def scan_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Scan]:
    return cache(lambda kind: series(kind, tmp_path_factory.mktemp("scan") / "series"))


def displacement(read: Read) -> float:
    """mm between true and given positions along the ramp: the third quartile."""
    values, points = read
    inside = values > -200  # not the air around the slices; of what is interpolated with it there is little
    return float(np.quantile(np.abs(values - ramp(points))[inside], 0.75) / GRADIENT)


def in_place(read: Read, middles: np.ndarray) -> int:
    """The number of slices with a voxel at their middle whose value belongs within 1 mm of it."""
    values, points = read
    right = (values > -200) & (np.abs(values - ramp(points)) <= GRADIENT)
    return int((KDTree(points[right]).query(middles)[0] <= REACH_MM).sum())


Cell = tuple[float, int, int]
"""Displacement in mm, slices in place, slices."""


def documented() -> dict[str, dict[str, Cell]]:
    """The document's first table: cells by kind of series and reader."""
    text = DOCUMENT.read_text().split("## Shards")[0]
    rows = [line.strip("| ").split("|") for line in text.splitlines() if line.startswith("|")]
    head, _, *lines = [[cell.strip() for cell in row] for row in rows]
    return {
        kind: {
            reader: (float(cell[1]), int(cell[2]), int(cell[3]))
            for reader, words in zip(head[1:], cells, strict=True)
            if (cell := re.fullmatch(r"([\d.]+) mm, (\d+) of (\d+)", words))
        }
        for kind, *cells in lines
    }


@pytest.mark.filterwarnings("ignore")  # of MONAI's nvImageCodec, and its geometry of an enhanced CT
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_each_reader_behaves_as_documented(reader: str, kind: str, scan_of: Callable[[str], Scan]) -> None:
    scan = scan_of(kind)
    off, right, slices = documented()[kind][reader]
    reads = [READERS[reader](scan.folder)]
    if reader.endswith("by either"):
        reads.append(by_dcm2niix(scan.folder, derived=True, itk=True))
    for read in reads:
        assert displacement(read) == pytest.approx(off, abs=0.15)
        assert (in_place(read, scan.middles), len(scan.middles)) == (right, slices)


def test_our_reader_is_right_for_every_documented_case() -> None:
    table = documented()
    assert set(table) == set(KINDS)
    assert all(set(row) >= set(READERS) for row in table.values())
    for off, right, slices in (row["fmct-hpc"] for row in table.values()):
        assert off <= 0.2
        assert right == slices
