"""DICOM files for tests: CT slices that sample a known function of patient coordinates."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

from preprocess.dicom.catalog import Series, read_catalog
from preprocess.scan.run import scan
from preprocess.volume.build import Volume

Function = Callable[[np.ndarray], np.ndarray]
"""Patient points (..., 3) in LPS mm to HU."""


def ct_image(stored: np.ndarray, **attributes: object) -> FileDataset:
    """A CT image of the given stored values; attributes by DICOM keyword override others, None removes."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    values = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": "1.2.3.1",
        "SeriesInstanceUID": "1.2.3.2",
        "FrameOfReferenceUID": "1.2.3.3",
        "PatientID": "patient",
        "Modality": "CT",
        "Manufacturer": "SIEMENS",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "ConvolutionKernel": "H30s",
        "KVP": 120,
        "SliceThickness": 5,
        "ImagePositionPatient": [0, 0, 0],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [1, 1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "BitsAllocated": 8 * stored.dtype.itemsize,
        "BitsStored": 8 * stored.dtype.itemsize,
        "HighBit": 8 * stored.dtype.itemsize - 1,
        "PixelRepresentation": int(stored.dtype.kind == "i"),
        "RescaleSlope": 1,
        "RescaleIntercept": 0,
        **attributes,
    }
    for name, value in values.items():
        if value is not None:
            setattr(data, name, value)
    data.PixelData = stored.tobytes()
    return data


def save(data: FileDataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def scanned(folder: Path, catalog: Path | None = None) -> list[Series]:
    """The series found by a scan of `folder`."""
    catalog = catalog or folder.parent / f"{folder.name}.parquet"
    scan(folder, catalog)
    return read_catalog(catalog)


@dataclass
class Acquisition:
    """Parallel slices: their positions, and how they are stored."""

    positions: np.ndarray
    column_step: np.ndarray = field(default_factory=lambda: np.array([1.0, 0, 0]))
    row_step: np.ndarray = field(default_factory=lambda: np.array([0, 1.0, 0]))
    spacing: tuple[float, float] = (3.0, 3.0)
    matrix: tuple[int, int] = (48, 48)

    def points(self, position: np.ndarray) -> np.ndarray:
        """(rows, columns, 3) LPS mm of one slice's pixel centres (PS3.3 C.7.6.2.1.1)."""
        i, j = np.indices(self.matrix)
        across = j[..., None] * self.spacing[1] * self.column_step
        return position + across + i[..., None] * self.spacing[0] * self.row_step

    def attributes(self, position: np.ndarray) -> dict[str, object]:
        return {
            "ImagePositionPatient": [f"{x:.9g}" for x in position],
            "ImageOrientationPatient": [f"{x:.9f}" for x in (*self.column_step, *self.row_step)],
            "PixelSpacing": list(self.spacing),
        }

    def write(self, folder: Path, hu: Function, names: Iterable[str] | None = None) -> Path:
        """One file per slice, named by `names` (default: by index)."""
        names = names or (f"{index:04d}" for index in range(len(self.positions)))
        for name, position in zip(names, self.positions, strict=True):
            stored = np.rint(hu(self.points(position))).astype(np.int16)
            save(ct_image(stored, **self.attributes(position)), folder / name)
        return folder

    def write_frames(
        self,
        path: Path,
        hu: Function,
        enhanced: bool,
        order: Iterable[int] | None = None,
        **attributes: object,
    ) -> FileDataset:
        """All slices as frames of one file; in an enhanced file in `order`, each with a rescale slope."""
        order = list(range(len(self.positions)) if order is None else order)
        images = [ct_image(np.rint(hu(self.points(self.positions[k]))).astype(np.int16)) for k in order]
        data = images[0]
        data.NumberOfFrames = len(order)
        data.PixelData = b"".join(image.PixelData for image in images)
        places = [self.attributes(self.positions[k]) for k in order]
        if enhanced:
            _group_frames(data, places)
        else:
            normal = np.cross(self.column_step, self.row_step)
            data.update(_dataset(**places[0]))
            data.SpacingBetweenSlices = f"{(self.positions[1] - self.positions[0]) @ normal:.9g}"
        data.update(_dataset(**attributes))
        save(data, path)
        return data


def _group_frames(data: FileDataset, places: list[dict[str, object]]) -> None:
    """Move attributes to functional groups (PS3.3 C.7.6.16, C.8.15.3); plane and rescale are per frame."""
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    data.SharedFunctionalGroupsSequence = [
        _dataset(
            CTReconstructionSequence=[_dataset(ConvolutionKernel=data.ConvolutionKernel)],
            CTXRayDetailsSequence=[_dataset(KVP=data.KVP)],
            PixelMeasuresSequence=[_dataset(SliceThickness=5, PixelSpacing=places[0]["PixelSpacing"])],
            PlaneOrientationSequence=[_dataset(ImageOrientationPatient=places[0]["ImageOrientationPatient"])],
        )
    ]
    data.PerFrameFunctionalGroupsSequence = [
        _dataset(
            PlanePositionSequence=[_dataset(ImagePositionPatient=place["ImagePositionPatient"])],
            FrameContentSequence=[_dataset(FrameAcquisitionNumber=1)],
            CTImageFrameTypeSequence=[_dataset(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])],
            PixelValueTransformationSequence=[_dataset(RescaleSlope=1, RescaleIntercept=0, RescaleType="HU")],
        )
        for place in places
    ]
    for name in (
        *("ConvolutionKernel", "KVP", "SliceThickness", "PixelSpacing", "ImageOrientationPatient"),
        *("ImagePositionPatient", "RescaleSlope", "RescaleIntercept"),
    ):
        delattr(data, name)


def _dataset(**attributes: object) -> Dataset:
    data = Dataset()
    for name, value in attributes.items():
        setattr(data, name, value)
    return data


def voxel_points(volume: Volume) -> np.ndarray:
    """(D, H, W, 3) LPS mm of the voxel centres, by the affine."""
    planes, rows, columns = (
        np.arange(count)[:, None] * step
        for count, step in zip(volume.voxels.shape, volume.affine[:3, :3].T, strict=True)
    )
    return (volume.affine[:3, 3] + planes)[:, None, None] + rows[:, None] + columns


def axial(
    slices: int = 24, gap: float = 5.0, start: tuple[float, float, float] = (-70, -60, 10)
) -> Acquisition:
    """An untilted axial acquisition with constant gaps."""
    return Acquisition(np.array(start) + np.arange(slices)[:, None] * np.array([0, 0, gap]))


def ramp(points: np.ndarray) -> np.ndarray:
    """HU linear in patient coordinates, steep enough to resolve 0.25 mm; linear sampling is exact."""
    return 700 + points @ np.array([3.0, -5.0, 4.0])


def waves(points: np.ndarray) -> np.ndarray:
    """Smooth HU without symmetry: the pattern differs from itself shifted, rotated or mirrored."""
    x, y, z = np.moveaxis(points, -1, 0)
    return 300 + 90 * np.sin(x / 23 + 0.4) + 70 * np.cos(y / 19 + x / 61) + 80 * np.sin(z / 27 - y / 83 + 1)
