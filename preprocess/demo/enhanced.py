"""Enhanced CT: the images of a series as the frames of one object (PS3.3 A.38)."""

from collections.abc import Sequence
from copy import deepcopy

from pydicom import Dataset
from pydicom.uid import EnhancedCTImageStorage

_SHARED = {
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "CTReconstructionSequence": ("ConvolutionKernel", "ReconstructionDiameter"),
    "CTXRayDetailsSequence": ("KVP",),
    "CTAcquisitionDetailsSequence": ("GantryDetectorTilt", "DataCollectionDiameter"),
}
_PER_FRAME = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope", "RescaleType"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth"),
}


def enhanced_ct(shared: Dataset, slices: Sequence[Dataset], sop_uid: str) -> Dataset:
    """One object with one frame per CT image, and its attributes in functional groups (C.7.6.16, C.8.15.3).

    shared: the elements that all images have in common (`ct_image`); slices: their own (`slice_elements`),
    with equal thickness. Frames are sorted by image number.
    """
    slices = sorted(slices, key=lambda own: int(own.InstanceNumber))
    images = [_merged(shared, own) for own in slices]
    frames = [_groups(image, _PER_FRAME) for image in images]
    for frame, image in zip(frames, images, strict=True):
        kind, content = Dataset(), Dataset()
        kind.FrameType = [*image.ImageType[:2], "VOLUME", "NONE"]
        content.FrameAcquisitionNumber = int(image.AcquisitionNumber)
        frame.CTImageFrameTypeSequence, frame.FrameContentSequence = [kind], [content]
    whole = deepcopy(images[0])
    whole.SharedFunctionalGroupsSequence = [_groups(images[0], _SHARED)]
    for keywords in (*_SHARED.values(), *_PER_FRAME.values()):
        for keyword in keywords:
            del whole[keyword]
    for keyword in ("SliceLocation", "AcquisitionNumber", "ExposureTime", "XRayTubeCurrent", "FilterType"):
        del whole[keyword]
    whole.SOPClassUID, whole.SOPInstanceUID = EnhancedCTImageStorage, sop_uid
    whole.ImageType = [*whole.ImageType[:2], "VOLUME", "NONE"]
    whole.InstanceNumber, whole.NumberOfFrames = 1, len(images)
    whole.PerFrameFunctionalGroupsSequence = frames
    whole.PixelData = b"".join(image.PixelData for image in images)
    return whole


def _merged(shared: Dataset, own: Dataset) -> Dataset:
    image = Dataset()
    image.update(shared)
    image.update(own)
    return image


def _groups(image: Dataset, macros: dict[str, tuple[str, ...]]) -> Dataset:
    groups = Dataset()
    for sequence, keywords in macros.items():
        item = Dataset()
        for keyword in keywords:
            item.add(image[keyword])
        setattr(groups, sequence, [item])
    return groups
