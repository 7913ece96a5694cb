"""Outputs that can't be written, or would replace an input: only one line that names the file."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from documents import substituted

from launch import cli
from shards import output_paths
from shards.atomic import atomic_path, write_text
from shards.errors import DiskFullError, FmctError, refusal
from shards.output_paths import require_file, require_folder

Run = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def fmct(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command here: its exit code, and the lines on standard error."""

    def run(*arguments: object) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["fmct", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert isinstance(ended.value.code, int)
        return ended.value.code, capsys.readouterr().err.splitlines()

    return run


@pytest.mark.parametrize(
    "command",
    [
        "scan EXPORT --catalog OUT",
        "select in.parquet key_file=k --out OUT.parquet",
        "labels in.csv --key-file k --out OUT",
        "preprocess in.parquet key_file=k --out OUT",
        "preprocess in.parquet key_file=k --out OUT --plan",
        "preprocess --status in.parquet --out OUT",
        "demo export OUT",
        "shards dump in key OUT.npy",
        "train --run OUT data.path=in",
        "train --run OUT data.path=in --dry-run",
        "convert-weights in.pt --out OUT",
        "convert-weights in.safetensors --out OUT",
        "export-model in.safetensors --out OUT.pt2",
        "export-model in.safetensors --monai OUT",
        "masks in.csv --data in --class a --out OUT",
        "segment SEGMENT --out OUT",
        "features in --encoder in --out OUT",
        "probe in data=in labels=in --out OUT",
        "sweep SWEEP --out OUT",
        "sweep SWEEP features=OUT --out new",
        "report OUT.html --run in",
        "recipes OUT",
    ],
)
def test_a_path_below_a_file_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fmct: Run, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    Path("export").mkdir()
    grid = "{data: in, labels: in, features: f, encoders: [{name: a, weights: in}]}"
    Path("sweep.yaml").write_text(grid)
    Path("segment.yaml").write_text(grid.replace("labels", "masks"))
    files = {"EXPORT": "export", "SWEEP": "sweep.yaml", "SEGMENT": "segment.yaml", "OUT": "file/out"}
    words = substituted(command, files)
    code, output = fmct(*words.split())
    assert (code, len(output)) == (2, 1), output
    assert str(Path("file")) in output[0]
    assert "name a" in output[0] or "give a" in output[0]
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        *("export", "file", "segment.yaml", "sweep.yaml")
    ]
    assert Path("file").read_text() == "mine"


@pytest.mark.parametrize(
    "command",
    [
        "select in.parquet key_file=k --out OUT.parquet",
        "labels in.csv --key-file k --out OUT.parquet",
        "shards dump in key OUT.npy",
        "report OUT.html --run in",
    ],
)
def test_a_folder_given_as_a_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fmct: Run, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for ending in ("parquet", "npy", "html"):
        Path(f"out.{ending}").mkdir()
    words = command.replace("OUT", "out").split()
    out = next(word for word in words if word.startswith("out."))
    assert fmct(*words) == (2, [f"fmct: {out}: is a folder; give a file"])


def test_an_input_is_recognised_by_any_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = tmp_path / "in"
    given.write_text("x")
    Path("link").symlink_to("in")
    for out in (given, Path("in"), Path("link"), Path("sub/../in")):
        Path("sub").mkdir(exist_ok=True)
        with pytest.raises(FmctError, match=r"is the input .*in, which it would replace"):
            require_file(out, None, tmp_path / "absent", given)
    require_file(Path("other"), given)
    with pytest.raises(FmctError, match="is the input"):
        require_file(given, Path("link"))


def test_a_report_does_not_overwrite_labels(tmp_path: Path, fmct: Run) -> None:
    for name in ("a.html", "a.md"):
        (tmp_path / name).write_text("labels")
        code, output = fmct("report", tmp_path / "a.html", "--run", "in", "--labels", tmp_path / name)
        assert (code, len(output)) == (2, 1)
        assert "is the input" in output[0]
        assert (tmp_path / name).read_text() == "labels"


def test_a_device_is_not_replaced() -> None:
    with pytest.raises(FmctError, match=r"^/dev/null: is a device; give a file$"):
        require_file(Path("/dev/null"))


def test_missing_permissions_are_detected_by_trying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_folder(tmp_path / "a" / "b")
    require_file(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())

    def refuse(dir: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", f"{dir}/tmpx")

    monkeypatch.setattr(output_paths, "TemporaryFile", refuse)
    for require in (require_folder, require_file):
        with pytest.raises(FmctError) as caught:
            require(tmp_path / "a" / "b")
        assert str(caught.value).startswith(f"{tmp_path}: permission denied; ")


@pytest.mark.parametrize(
    ("number", "code"),
    [
        *((number, 2) for number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR)),
        *((errno.EEXIST, 2), (errno.ENAMETOOLONG, 2), (errno.ENOSPC, 73), (errno.EDQUOT, 73)),
    ],
)
def test_system_errors_are_one_line_with_the_file_name(
    monkeypatch: pytest.MonkeyPatch, fmct: Run, number: int, code: int
) -> None:
    def refuse() -> None:
        raise OSError(number, os.strerror(number), "/from", None, "/some/file")

    monkeypatch.setattr(cli, "built", lambda words: refuse)
    ended, output = fmct()
    assert (ended, len(output)) == (code, 1)
    assert output[0].startswith(f"fmct: /some/file: {os.strerror(number).lower()}; ")


@pytest.mark.parametrize(
    "defect",
    [
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.EBADF, "Bad file descriptor", "/some/file"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/some/file"),
        IsADirectoryError("a message alone"),
        PermissionError(errno.EACCES, "Permission denied", 3),
    ],
)
def test_other_failures_keep_their_traceback(monkeypatch: pytest.MonkeyPatch, defect: OSError) -> None:
    def fail() -> None:
        raise defect

    monkeypatch.setattr(cli, "built", lambda words: fail)
    assert refusal(defect) is None
    with pytest.raises(type(defect)):
        cli.main()


def test_a_full_disk_is_not_a_defect_even_without_a_file_name() -> None:
    error = refusal(OSError(errno.ENOSPC, "No space left on device"))
    assert isinstance(error, DiskFullError)
    assert "no space left on device; " in str(error)


def disk_full(*names: object) -> OSError:
    return OSError(errno.ENOSPC, "No space left on device", *names)


def test_errors_during_a_write_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_text(tmp_path / "folder", "x")
    assert str(refusal(caught.value)) == f"{tmp_path / 'folder'}: is a directory; give a file"

    out = tmp_path / "out"
    for names in ((), ("TEMPORARY",), ("/source", None, "TEMPORARY")):
        with pytest.raises(OSError, match="No space") as full, atomic_path(out) as temporary:
            raise disk_full(*(str(temporary) if name == "TEMPORARY" else name for name in names))
        assert str(refusal(full.value)).startswith(f"{out}: no space left")
    with pytest.raises(PermissionError) as other, atomic_path(out):
        raise PermissionError(errno.EACCES, "Permission denied", "/an/input")
    assert str(refusal(other.value)).startswith("/an/input: permission denied")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
