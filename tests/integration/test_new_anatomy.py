"""docs/architecture.md, "How to add an anatomy", followed to the letter on a copy of the packages."""

import json
from pathlib import Path

import pytest
from documented_example import AppliedExample, follow
from documents import REPOSITORY


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> AppliedExample:
    """The packages with the document's anatomy."""
    return follow("How to add an anatomy", tmp_path_factory.mktemp("copy"))


def test_the_documented_anatomy_accepts_what_the_head_profile_refuses(
    copy: AppliedExample, tmp_path: Path
) -> None:
    """Two knees and two heads, one of each without a text that names it."""
    copy.lint()
    script = str(REPOSITORY / "tests/two_anatomies.py")
    found = json.loads(copy.run(script, str(tmp_path)).splitlines()[-1])
    refused = [["not_a_head", "build"], ["series_description", "select"]]
    for name in ("knee", "head"):
        assert (found[name]["volumes"], found[name]["scans"]) == (2, 2)
        assert found[name]["reasons"] == refused
        assert found[name]["digest"] == found[name]["again"]
        assert found[name]["given"] == 0.2
    assert found["knee"]["flags"] == []
    assert (found["knee"]["sketches"], found["head"]["sketches"]) == (0, 2)
    assert found["knee"]["digest"] != found["head"]["digest"]
    assert (found["knee"]["min_coverage_mm"], found["head"]["min_coverage_mm"]) == (60, 80)
    assert (found["knee"]["max_vertex_share"], found["head"]["max_vertex_share"]) == (1, 0.4)
    assert not found["same voxels"]
    assert found["later keys"] == []
    assert found["site's word"] == [["knee"], ["other"]]
    unknown, face = found["refused"]
    assert "select.anatomy" in unknown
    assert "expected one of head, knee" in unknown
    assert "privacy.deface" in face
