"""The voxels of fixed inputs do not change unless PROCESSING_VERSION does."""

from pathlib import Path

import pytest
from golden import Golden, made

from preprocess.tasks.plan import PROCESSING_VERSION

VERSION = 13
"""The PROCESSING_VERSION of the digests below."""
GOLDEN = {
    "ge": ("5f643a31be29ccf9", (94.862, 105.595, -33.356)),
    "philips-tilted-rle": ("0f08d1f86d024c3f", (91.23, -3.415, 1104.435)),
    "siemens-implicit": ("b50e6ce5e33c7a68", (89.698, -49.974, -550.959)),
    "siemens-jpeg2000": ("f4be98d1d41a07ff", (79.544, -58.896, -554.797)),
    "toshiba-enhanced-deflated": ("250dd968d7a4a769", (83.662, 154.11, -162.325)),
    "toshiba-turned-big-endian": ("37111bf9bb1180ea", (83.537, 165.749, -161.488)),
    "ge_head_tilt18": ("afca377fa1ee5fc5", (99.256, 107.086, -71.114)),
    "ge_head_tilt18, 1 mm": ("f8fb9c8a3b7f9bee", (100.256, 107.506, -71.569)),
    "ge_head_tilt18, defaced": ("71b2af8aeeed7dec", (99.256, 107.086, -71.114)),
    "ge_head_tilt18, array": ("b372c9cc633a6a61", (98.556, 104.306, -269.959)),
    "jpeg-lossless-predictor-1.jpg": ("cae449105eda18d5", (0.0, 0.0, 0.0)),
    "jpeg-lossless-predictor-4.jpg": ("cae449105eda18d5", (0.0, 0.0, 0.0)),
    "jpeg-lossless-predictor-6.jpg": ("cae449105eda18d5", (0.0, 0.0, 0.0)),
    "jpeg-baseline.jpg": ("e4bf97860e86510f", (0.0, 0.0, 0.0)),
    "jpeg-extended-12-bit.jpg": ("34c76ac6e4d8b4ee", (0.0, 0.0, 0.0)),
    "jpeg-ls.jls": ("cae449105eda18d5", (0.0, 0.0, 0.0)),
    "jpeg-ls-near-2.jls": ("31536ffc69fcef3c", (0.0, 0.0, 0.0)),
    "jpeg2000-lossy.j2k": ("54206235e9d9e3ef", (0.0, 0.0, 0.0)),
    "htj2k.jph": ("cae449105eda18d5", (0.0, 0.0, 0.0)),
}

CHANGED = """
The voxels of unchanged inputs have changed: {names}.
If this is unintended, find the cause: volumes made before and after would differ without notice.
If it is intended: raise PROCESSING_VERSION in preprocess/tasks/plan.py (every archive is then processed
again), describe the change in docs/CHANGELOG.md, and put the new version and the output of
`python tests/golden.py` in here."""


def test_voxels_change_only_with_a_new_processing_version(tmp_path: Path) -> None:
    actual = dict(made(tmp_path))
    assert actual.keys() == GOLDEN.keys()
    changed = [name for name, golden in actual.items() if not _same(golden, Golden(*GOLDEN[name]))]
    if changed:
        pytest.fail(CHANGED.format(names=", ".join(changed)), pytrace=False)
    assert PROCESSING_VERSION == VERSION, "these digests are of another version: put the new one beside them"


def _same(actual: Golden, golden: Golden) -> bool:
    return actual.sha256 == golden.sha256 and actual.origin_mm == pytest.approx(golden.origin_mm, abs=0.002)
