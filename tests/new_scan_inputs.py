"""An export, its shards and an encoder of random weights, for the tests of features of new scans."""

from pathlib import Path

import pytest
from dicom_files import axial
from preprocess_export import Export, make_export, run_inline, write_series
from small_training import small_encoder

STUDIES = 2


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """The last study's head is partly outside the field, and flagged."""
    made = make_export(tmp_path_factory.mktemp("export"), STUDIES - 1)
    write_series(made.folder, STUDIES - 1, 1, axial(slices=20, gap=6.0, start=(-86, -60, 0)))
    made.rescan()
    return made


@pytest.fixture(scope="module")
def data(export: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data")
    run_inline(export, out, export.config(formats=("zarr",)))
    return out / "zarr"


@pytest.fixture(scope="module")
def encoder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_encoder(data, tmp_path_factory.mktemp("encoder"))
