import os
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def shared_dicom() -> Callable[[str], Path]:
    """Real series kept beside the repository; without them tests skip, and fail in CI."""

    def find(name: str) -> Path:
        folder = REPOSITORY.parent / "shared" / "dicom" / name
        if not folder.is_dir():
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"no ../shared/dicom/{name}")
        return folder

    return find
