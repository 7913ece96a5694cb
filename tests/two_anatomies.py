"""Knees and heads, preprocessed with every anatomy: two_anatomies.py FOLDER prints the results as JSON.

tests/integration/test_new_anatomy.py runs it where `knee` is registered.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import preprocess_export
import pyarrow.parquet as pq
from dicom_files import axial
from preprocess_export import CENTRE, KEY, Export, run_inline, write_series
from pydantic import ValidationError

from preprocess.anatomy.registry import ANATOMIES
from preprocess.config import CheckConfig, PreprocessConfig
from preprocess.reader import read
from preprocess.select.lexicon import lexicon
from preprocess.select.rules import SelectConfig
from preprocess.select.terms import Term
from shards.preprocessing import same_voxels
from shards.section import first_keys

HEAD = preprocess_export.head


def knee(points: np.ndarray) -> np.ndarray:
    """HU at patient points (..., 3): the ends of two bones in muscle and fat, along the whole scan."""
    x, y, z = (points[..., axis] - CENTRE[axis] for axis in range(3))
    from_axis = np.hypot(x, y)
    bone = (from_axis < 38) & (abs(z) > 3 + 3 * np.cos(x / 15))
    layers = [bone & (from_axis > 33), bone, from_axis < 50, from_axis < 58]
    return np.select(layers, [900, 200, 55, -100], -1000) + 6 * np.sin(x / 7) * np.cos(y / 9)


def make_export(work: Path) -> Export:
    """Four studies: two knees and two heads, one of each with a text that names the body part."""
    slices = axial(slices=22, gap=6.0, start=(-70, -60, 0))
    for study, (hu, text) in enumerate(((knee, "Knie links"), (knee, ""), (HEAD, "Kopf nativ"), (HEAD, ""))):
        preprocess_export.head = hu
        write_series(work / "dicom", study, 1, slices, SeriesDescription=text)
    export = Export(work / "dicom", work / "catalog.parquet", work / "hmac.key")
    export.key_file.write_text(KEY)
    export.key_file.chmod(0o600)
    export.rescan()
    return export


def config(key_file: Path, anatomy: str, **sections: dict[str, Any]) -> PreprocessConfig:
    """Preprocessing with voxels of 4 mm."""
    values = {"key_file": key_file, "grid": {"spacing_mm": (4, 4, 4)}, "output": {"formats": ("zarr",)}}
    return PreprocessConfig.model_validate({**values, **sections, "select": {"anatomy": anatomy}})


def result(export: Export, out: Path, name: str) -> dict[str, Any]:
    """The outcome of the export with one anatomy."""
    made = config(export.key_file, name)
    run_inline(export, out, made)
    volumes, rows = (pq.read_table(out / f"{part}.parquet") for part in ("manifest", "quarantine"))
    return {
        "volumes": len(volumes),
        "flags": [flag for flags in volumes["flags"].to_pylist() for flag in flags],
        "reasons": sorted(zip(rows["reason"].to_pylist(), rows["stage"].to_pylist(), strict=True)),
        "scans": len(list(read(export.folder, made.shaping(), made.digest()))),
        "sketches": sum(len(pq.read_table(path)) for path in out.rglob("*.sketches.parquet")),
        "digest": made.digest(),
        "again": PreprocessConfig.of_record(made.shaping()).digest(),
        "min_coverage_mm": made.select.min_coverage_mm,
        "max_vertex_share": made.check.max_vertex_share,
        "given": config(export.key_file, name, check={"max_vertex_share": 0.2}).check.max_vertex_share,
    }


def refusal(key_file: Path, anatomy: str, **sections: dict[str, Any]) -> str:
    """Why a configuration is invalid."""
    try:
        config(key_file, anatomy, **sections)
    except ValidationError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    export = make_export(Path(sys.argv[1]))
    one, other = (config(export.key_file, name).shaping() for name in ("knee", "head"))
    sections = {"select": SelectConfig, "check": CheckConfig}
    found = {
        **{name: result(export, Path(sys.argv[1]) / name, name) for name in ANATOMIES},
        "same voxels": same_voxels(one, other),
        "later keys": [
            key
            for profile in ANATOMIES.values()
            for name, section in sections.items()
            for key in {*getattr(profile, name)} - {*first_keys(section)}
        ],
        "site's word": [
            [*lexicon((Term(kind="body", term="lutut", meaning="knee"),), name).meanings("CT lutut", "body")]
            for name in ("knee", "head")
        ],
        "refused": [
            refusal(export.key_file, "elbow"),
            refusal(export.key_file, "knee", privacy={"deface": True}),
        ],
    }
    print(json.dumps(found))
