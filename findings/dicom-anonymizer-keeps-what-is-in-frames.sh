#!/usr/bin/env bash
# dicom-anonymizer 2.1.0 (KitwareMedical), an Enhanced CT and a Segmentation (made with highdicom 0.28.2)
#
# Expected: by its README it anonymizes the attributes of PS3.15 Table E.1-1 (2023e), and gives the same new UID for the
# same UID. By PS3.15 E.1.1 this concerns all of them, at the top level or embedded in items of sequences.
# Observed: an action applies to the top level of a file only, and to items of sequences that are listed themselves. The
# functional groups of multi-frame images are not: Frame Acquisition DateTime (0018,9074; action D), Frame Comments
# (0020,9158; X) and Referenced SOP Instance UID (0008,1155; U), all of which are in the program's own table, remain in
# every frame of an Enhanced CT, while Content Date and Image Comments at the top level are changed or removed. A
# Segmentation still refers to the CT slices by their original UIDs in each frame: it identifies them, and it no longer
# belongs to the slices that were anonymized with it. There is no warning. Issue 88 of the repository asks whether
# nested tags are processed.
#
# Exits 1 if one of the three is changed in a frame.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  dicom-anonymizer==2.1.0 highdicom==0.28.2 pydicom==3.0.2 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - 2> "$work/progress" <<'PYTHON' || { cat "$work/progress"; exit 1; }
import sys
from importlib.metadata import version
from pathlib import Path

import highdicom
import numpy as np
import pydicom
from dicomanonymizer import anonymize
from dicomanonymizer.dicom_anonymization_databases import dicomfields_2023
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

MOMENT, COMMENT = "20200314101112", "made-up remark"


def item(**values: object) -> Dataset:
    data = Dataset()
    for keyword, value in values.items():
        setattr(data, keyword, value)
    return data


study, series, place_uid = generate_uid(), generate_uid(), generate_uid()


def image(uid_class: str, number: int) -> Dataset:
    """What all images of the study have."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = uid_class
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, place_uid
    data.PatientName = data.PatientID = "phantom"
    data.PatientBirthDate = data.PatientSex = data.StudyID = data.AccessionNumber = ""
    data.ReferringPhysicianName = data.PositionReferenceIndicator = ""
    data.StudyDate = data.ContentDate = MOMENT[:8]
    data.StudyTime = data.ContentTime = MOMENT[8:]
    data.ImageComments = COMMENT
    data.Modality, data.Manufacturer, data.SeriesNumber, data.InstanceNumber = "CT", "none", 1, number
    data.Rows = data.Columns = 8
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    return data


slices = []
for number in range(3):
    one = image(CTImageStorage, number + 1)
    one.ImagePositionPatient, one.ImageOrientationPatient = [0, 0, 5 * number], [1, 0, 0, 0, 1, 0]
    one.PixelSpacing, one.SliceThickness = [1, 1], 5
    one.PixelData = bytes(2 * 64)
    slices.append(one)

segment = highdicom.seg.SegmentDescription(
    segment_number=1,
    segment_label="bleed",
    segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
    segmented_property_type=codes.SCT.Lesion,
    algorithm_type="MANUAL",
)
masks = highdicom.seg.Segmentation(
    source_images=slices,
    pixel_array=np.ones((3, 8, 8), bool),
    segmentation_type="BINARY",
    segment_descriptions=[segment],
    series_instance_uid=generate_uid(),
    series_number=2,
    sop_instance_uid=generate_uid(),
    instance_number=1,
    manufacturer="none",
    manufacturer_model_name="none",
    software_versions="1",
    device_serial_number="1",
)

enhanced = image(EnhancedCTImageStorage, 1)
enhanced.NumberOfFrames, enhanced.ImageType = 3, ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
enhanced.SharedFunctionalGroupsSequence = [
    item(
        PixelMeasuresSequence=[item(PixelSpacing=[1, 1], SliceThickness=5)],
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
    )
]
enhanced.PerFrameFunctionalGroupsSequence = [
    item(
        FrameContentSequence=[item(FrameAcquisitionDateTime=MOMENT, FrameComments=COMMENT)],
        PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 5 * number])],
        PixelValueTransformationSequence=[item(RescaleIntercept=0, RescaleSlope=1, RescaleType="HU")],
    )
    for number in range(3)
]
enhanced.PixelData = bytes(3 * 2 * 64)

Path("given").mkdir()
Path("anonymized").mkdir()
for name, data in {**{f"ct{n}": one for n, one in enumerate(slices)}, "masks": masks, "enhanced": enhanced}.items():
    data.save_as(f"given/{name}.dcm", enforce_file_format=True)
anonymize("given", "anonymized", {}, True)

print(f"dicom-anonymizer {version('dicom-anonymizer')}; its actions by default:")
for keyword in ("FrameAcquisitionDateTime", "FrameComments", "ReferencedSOPInstanceUID"):
    tag = pydicom.tag.Tag(keyword)
    lists = {key: value for key, value in vars(dicomfields_2023).items() if key.endswith("_TAGS") and key != "ALL_TAGS"}
    print(f"  {keyword} {tag}:", *(key for key, tags in lists.items() if (tag.group, tag.element) in tags))
after = pydicom.dcmread("anonymized/enhanced.dcm")
contents = [group.FrameContentSequence[0] for group in after.PerFrameFunctionalGroupsSequence]
print(f"Enhanced CT: Content Date {after.ContentDate}, Image Comments {after.get('ImageComments', 'removed')}")
print("  in frames:", {(str(c.get("FrameAcquisitionDateTime")), c.get("FrameComments", "removed")) for c in contents})
new = [str(pydicom.dcmread(f"anonymized/ct{number}.dcm").SOPInstanceUID) for number in range(3)]
old = [str(one.SOPInstanceUID) for one in slices]
groups = pydicom.dcmread("anonymized/masks.dcm").PerFrameFunctionalGroupsSequence
referred = [str(g.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID) for g in groups]
print("Segmentation, frames that refer to a CT slice by its original UID:", sum(uid in old for uid in referred), "of 3")
print("  by its new UID:", sum(uid in new for uid in referred))
changed_on_top = after.ContentDate != MOMENT[:8] and "ImageComments" not in after and not set(old) & set(new)
kept = all((c.FrameAcquisitionDateTime, c.FrameComments) == (MOMENT, COMMENT) for c in contents)
sys.exit(not (changed_on_top and kept and sorted(referred) == sorted(old)))
PYTHON
