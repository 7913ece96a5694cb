"""docs/architecture.md, "How to add an anatomy", applied literally to a copy of the packages."""

import json
from pathlib import Path

import pytest
from documented_example import AppliedExample, follow
from documents import REPOSITORY


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> AppliedExample:
    """The packages with the anatomy of the document."""
    return follow("How to add an anatomy", tmp_path_factory.mktemp("copy"))


def test_the_documented_anatomy_accepts_what_the_head_profile_refuses(
    copy: AppliedExample, tmp_path: Path
) -> None:
    """Two knees and two heads, one of each without a text that names the body part."""
    copy.lint()
    script = str(REPOSITORY / "tests/two_anatomies.py")
    actual = json.loads(copy.run(script, str(tmp_path)).splitlines()[-1])
    refused = [["not_a_head", "build"], ["series_description", "select"]]
    for name in ("knee", "head"):
        assert (actual[name]["volumes"], actual[name]["scans"]) == (2, 2)
        assert actual[name]["reasons"] == refused
        assert actual[name]["digest"] == actual[name]["again"]
        assert actual[name]["given"] == 0.2
    assert actual["knee"]["flags"] == []
    assert (actual["knee"]["sketches"], actual["head"]["sketches"]) == (0, 2)
    assert actual["knee"]["digest"] != actual["head"]["digest"]
    assert (actual["knee"]["min_coverage_mm"], actual["head"]["min_coverage_mm"]) == (60, 80)
    assert (actual["knee"]["max_vertex_share"], actual["head"]["max_vertex_share"]) == (1, 0.4)
    assert not actual["same voxels"]
    assert actual["later keys"] == []
    assert actual["site's word"] == [["knee"], ["other"]]
    unknown, face = actual["refused"]
    assert "select.anatomy" in unknown
    assert "expected one of head, knee" in unknown
    assert "privacy.deface" in face
