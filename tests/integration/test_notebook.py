"""docs/notebook.ipynb runs unchanged, cell by cell in one process."""

import json
import os
import subprocess
from pathlib import Path

from forked_commands import forked_python

REPOSITORY = Path(__file__).parents[2]


def test_the_notebook_runs(tmp_path: Path) -> None:
    """The notebook's code in one interpreter, without Jupyter's kernel."""
    cells = json.loads((REPOSITORY / "docs/notebook.ipynb").read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells), "kept without outputs"
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    # by -c: __main__ has no file then, as in a kernel, which workers would import again
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*forked_python(), "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert result.returncode == 0, result.stderr
    out = tmp_path / "notebook-out"
    assert (out / "report.html").stat().st_size > 10_000
    assert (out / "probe/results.json").is_file()
    assert "12 volumes" in result.stdout
