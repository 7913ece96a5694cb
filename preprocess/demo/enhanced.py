"""Enhanced CT: the images of a series as the frames of one object (PS3.3 A.38)."""

from collections.abc import Sequence

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


def enhanced_ct(images: Sequence[Dataset], sop_uid: str) -> Dataset:
    """One object with one frame per CT image, and its attributes in functional groups (C.7.6.16, C.8.15.3).

    Frames are sorted by image number. The images must have equal shared attributes.
    """
    images = sorted(images, key=lambda image: int(image.InstanceNumber))
    shared, frames = _groups(images[0], _SHARED), [_groups(image, _PER_FRAME) for image in images]
    for frame, image in zip(frames, images, strict=True):
        kind, content = Dataset(), Dataset()
        kind.FrameType = [*image.ImageType[:2], "VOLUME", "NONE"]
        content.FrameAcquisitionNumber = int(image.AcquisitionNumber)
        frame.CTImageFrameTypeSequence, frame.FrameContentSequence = [kind], [content]
    whole = images[0]
    for keywords in (*_SHARED.values(), *_PER_FRAME.values()):
        for keyword in keywords:
            del whole[keyword]
    for keyword in ("SliceLocation", "AcquisitionNumber", "ExposureTime", "XRayTubeCurrent", "FilterType"):
        del whole[keyword]
    whole.SOPClassUID, whole.SOPInstanceUID = EnhancedCTImageStorage, sop_uid
    whole.ImageType = [*whole.ImageType[:2], "VOLUME", "NONE"]
    whole.InstanceNumber, whole.NumberOfFrames = 1, len(images)
    whole.SharedFunctionalGroupsSequence = [shared]
    whole.PerFrameFunctionalGroupsSequence = frames
    whole.PixelData = b"".join(image.PixelData for image in images)
    whole["PixelData"].VR = "OW"
    return whole


def _groups(image: Dataset, macros: dict[str, tuple[str, ...]]) -> Dataset:
    groups = Dataset()
    for sequence, keywords in macros.items():
        item = Dataset()
        for keyword in keywords:
            item.add(image[keyword])
        setattr(groups, sequence, [item])
    return groups
