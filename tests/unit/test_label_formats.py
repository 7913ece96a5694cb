"""Labels of public datasets in their original formats, for studies of a scan."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dicom_files import ct_image, save, scanned
from pydicom.config import disable_value_validation

from preprocess.labels import LabelFormat, key_labels
from preprocess.privacy.deidentify import Pseudonymizer, new_key
from shards.errors import FmctError

FINDINGS = ("epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural", "any")
KEY = "hmac.key"


def scan_images(folder: Path, images: list[dict[str, str]]) -> Path:
    """The catalog of a scan of 2 × 2 images with these attributes."""
    with disable_value_validation():  # RSNA's are not valid UIDs
        for number, attributes in enumerate(images):
            save(ct_image(np.zeros((2, 2), np.int16), **attributes), folder / "dicom" / f"{number}.dcm")
    scanned(folder / "dicom", folder / "catalog.parquet")
    return folder / "catalog.parquet"


def keyed(folder: Path, format: LabelFormat, text: str, **where: Any) -> dict[str, dict[str, int | None]]:
    """Labels by study key."""
    if not (folder / KEY).exists():
        new_key(folder / KEY)
    (folder / "labels.csv").write_text(text)
    key_labels(folder / "labels.csv", folder / KEY, folder / "labels.parquet", format, **where)
    return {row.pop("study_key"): row for row in pq.read_table(folder / "labels.parquet").to_pylist()}


def rsna(**positive: str) -> str:
    """stage_2_train.csv: findings of each image, by name."""
    rows = [
        f"ID_{image}_{finding},{int(finding in findings.split())}"
        for image, findings in positive.items()
        for finding in FINDINGS
    ]
    return "\n".join(["ID,Label", *rows, ""])


@pytest.fixture
def exams(tmp_path: Path) -> Path:
    """Two exams as in RSNA 2019: one of two slices and a localiser series, one of two slices."""
    image = {"PatientID": "ID_p", "SeriesInstanceUID": "ID_s1", "StudyInstanceUID": "ID_bleeds"}
    well = image | {"SeriesInstanceUID": "ID_s2", "StudyInstanceUID": "ID_well"}
    return scan_images(
        tmp_path,
        [
            image | {"SOPInstanceUID": "ID_a1"},
            image | {"SOPInstanceUID": "ID_a2"},
            image | {"SeriesInstanceUID": "ID_s0", "SOPInstanceUID": "ID_scout"},
            well | {"SOPInstanceUID": "ID_b1"},
            well | {"SOPInstanceUID": "ID_b2"},
        ],
    )


def test_an_exam_is_positive_if_any_slice_is(tmp_path: Path, exams: Path) -> None:
    labels = keyed(
        tmp_path, "rsna2019", rsna(a1="subdural any", a2="", b1="", b2="", other=""), catalog=exams
    )
    study = Pseudonymizer(tmp_path / KEY).study
    assert labels[study("ID_bleeds")] == dict.fromkeys(FINDINGS, 0) | {"subdural": 1, "any": 1}
    assert labels[study("ID_well")] == dict.fromkeys(FINDINGS, 0)
    assert len(labels) == 2


def test_a_slice_without_labels_leaves_no_certain_negative(tmp_path: Path, exams: Path) -> None:
    labels = keyed(tmp_path, "rsna2019", rsna(a1="subdural any", b1="", b2=""), catalog=exams)
    study = Pseudonymizer(tmp_path / KEY).study
    assert labels[study("ID_bleeds")] == dict.fromkeys(FINDINGS) | {"subdural": 1, "any": 1}
    assert labels[study("ID_well")] == dict.fromkeys(FINDINGS, 0)


def test_a_mapping_replaces_the_catalog(tmp_path: Path) -> None:
    mapping = tmp_path / "mapping.csv"
    mapping.write_text("study_instance_uid,rows,sop_instance_uid\n1.2,512,a1\n1.2,512,a2\n1.3,512,b1\n")
    labels = keyed(tmp_path, "rsna2019", rsna(a1="", a2="epidural any", b1=""), mapping=mapping)
    study = Pseudonymizer(tmp_path / KEY).study
    assert labels[study("1.2")] == dict.fromkeys(FINDINGS, 0) | {"epidural": 1, "any": 1}
    assert labels[study("1.3")] == dict.fromkeys(FINDINGS, 0)
    mapping.write_text("study_instance_uid,sop_instance_uid\n1.2,a1\n1.3,a1\n")
    with pytest.raises(FmctError, match=r"mapping\.csv row 3: its sop_instance_uid has another study"):
        keyed(tmp_path, "rsna2019", rsna(a1=""), mapping=mapping)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ID,Label\nID_a1_bleeding,1\n", r"row 2: expected stage_2_train"),
        ("ID,Label\nID_a1_any,1\nID_a1_any,2\n", r"row 3: expected stage_2_train"),
        ("ID,Label\nID_a1_any,1\nID_a1_any,1\nID_a1_any,0\n", r"contradicts another row"),
        ("image,finding\na1,1\n", r"expected stage_2_train"),
        ("ID,Label\n", r"expected stage_2_train"),
        ("ID,Label\nID_elsewhere_any,1\n", r"none of its 1 images are in"),
    ],
)
def test_another_table_than_rsnas_is_refused(tmp_path: Path, exams: Path, text: str, message: str) -> None:
    with pytest.raises(FmctError, match=message):
        keyed(tmp_path, "rsna2019", text, catalog=exams)


def cq500(*rows: str) -> str:
    header = [f"R{reader}:{finding}" for reader in (1, 2, 3) for finding in ("ICH", "BleedLocation-Left")]
    return "\n".join([",".join(["name", "Category", *header]), *rows, ""])


def test_the_majority_of_three_readers_decides(tmp_path: Path) -> None:
    catalog = scan_images(
        tmp_path,
        [
            {"PatientID": "CQ500-CT-0", "StudyInstanceUID": "1.0"},
            {"PatientID": "CQ500CT17", "StudyInstanceUID": "1.17", "SeriesInstanceUID": "2.17"},
            {"PatientID": "CQ500CT4", "StudyInstanceUID": "1.4", "SeriesInstanceUID": "2.4"},
            {"PatientID": "CQ500CT4", "StudyInstanceUID": "1.5", "SeriesInstanceUID": "2.5"},
        ],
    )
    rows = ["CQ500-CT-0,B1,1,0,1,0,0,1", "CQ500-CT-17,B2,0,1,0,,1,0", "CQ500-CT-4,B1,1,1,1,1,1,1"]
    labels = keyed(tmp_path, "cq500", cq500(*rows, "CQ500-CT-3,B1,0,0,0,0,0,0"), catalog=catalog)
    study = Pseudonymizer(tmp_path / KEY).study
    assert labels == {
        study("1.0"): {"ICH": 1, "BleedLocation_Left": 0},
        study("1.17"): {"ICH": 0, "BleedLocation_Left": None},
    }
    summary = key_labels(
        tmp_path / "labels.csv", tmp_path / KEY, tmp_path / "o.parquet", "cq500", catalog=catalog
    )
    assert "1 scans of the table are not among the studies" in str(summary)
    assert "1 names have several studies" in str(summary)
    for row, message in (
        ("CQ500-CT-0,B1,1,0,yes,0,0,1", "row 2, finding ICH: a read is 0, 1 or empty"),
        ("SMITH,B1,1,0,1,0,0,1", "row 2: not the row of a scan"),
        ("CQ500-CT-9,B1,1,0,1,0,0,1", "none of its 1 scans are in"),
    ):
        with pytest.raises(FmctError, match=message):
            keyed(tmp_path, "cq500", cq500(row), catalog=catalog)


def test_a_plain_table_may_be_parquet_with_gaps_and_splits(tmp_path: Path) -> None:
    new_key(tmp_path / KEY)
    columns = {
        "patient_id": ["Müller 7", "Other"],
        "study_instance_uid": ["1.2", "1.3"],
        "bleed": [1.0, None],
        "fracture": [True, False],
        "split": ["train", "test"],
    }
    pq.write_table(pa.table(columns), tmp_path / "labels.parquet")
    summary = key_labels(tmp_path / "labels.parquet", tmp_path / KEY, tmp_path / "out.parquet")
    assert summary.counts == {"bleed": (1, 0, 1), "fracture": (1, 1, 0)}
    study = Pseudonymizer(tmp_path / KEY).study
    actual = {row["study_key"]: row for row in pq.read_table(tmp_path / "out.parquet").to_pylist()}
    assert actual[study("1.2")] == {"study_key": study("1.2"), "bleed": 1, "fracture": 1, "split": "train"}
    assert actual[study("1.3")] == {"study_key": study("1.3"), "bleed": None, "fracture": 0, "split": "test"}

    (tmp_path / "wrong.csv").write_text("study_instance_uid,bleed,split\n1.2,1,SMITH\n")
    with pytest.raises(FmctError, match=r"row 2, column split: not one of train, validation, test"):
        key_labels(tmp_path / "wrong.csv", tmp_path / KEY, tmp_path / "out.parquet")
    with pytest.raises(FmctError, match="a plain table identifies its studies itself"):
        key_labels(tmp_path / "wrong.csv", tmp_path / KEY, tmp_path / "o", catalog=tmp_path / "c")
    with pytest.raises(FmctError, match="give the catalog of the dataset's scan, or a mapping"):
        key_labels(tmp_path / "wrong.csv", tmp_path / KEY, tmp_path / "o", "cq500")
