import hashlib
import os
import pickle
import stat
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.privacy.deidentify import Pseudonymizer, new_key, shifted_date
from shards.errors import FmctError


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "hmac.key"
    new_key(path)
    return path


def rfc2104(key: bytes, message: bytes) -> str:
    """HMAC-SHA256 written out from RFC 2104 section 2."""
    padded = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in padded) + message).digest()
    return hashlib.sha256(bytes(b ^ 0x5C for b in padded) + inner).hexdigest()


def test_pseudonyms_are_hmac_sha256_in_separate_domains(key_file: Path) -> None:
    key = bytes.fromhex(key_file.read_text())
    names = Pseudonymizer(key_file)
    assert names.patient("Ä 1", "1.2") == rfc2104(key, "patient\0Ä1".encode())[:32]
    assert names.study("1.2") == rfc2104(key, b"study\x001.2")[:32]
    assert names.series("p", "1.2", "1.3") == rfc2104(key, b"series\0p\x001.2\x001.3")[:32]
    assert names.patient("", "1.2") == rfc2104(key, b"patient of study\x001.2")[:32]


def test_one_patient_has_one_pseudonym_in_every_spelling_of_the_id(key_file: Path) -> None:
    names = Pseudonymizer(key_file)
    for written in (["AB 12", "ab12", " AB12 ", "ＡＢ12"], ["0042", "42", "42 ", "000042"], ["0", "00"]):
        assert len({names.patient(one, "1.2") for one in written}) == 1
        assert len({names.date_shift(one, "1.2", 10**6) for one in written}) == 1
    assert len({names.patient(one, "1.2") for one in ("A1", "A01", "1", "10", "")}) == 5


def test_dates_shift_by_patient_and_intervals_stay(key_file: Path) -> None:
    names = Pseudonymizer(key_file)
    shifts = [names.date_shift(f"P{patient}", "1.2", 365) for patient in range(2000)]
    assert (min(shifts), max(shifts)) == (1, 365)
    assert len(set(shifts)) > 350
    shift = names.date_shift("P1", "1.3", 365)
    assert shift == shifts[1]
    first, second = (shifted_date(day, shift) for day in ("20240228", "2024.03.01"))
    assert first
    assert second
    assert (second - first).days == 2
    assert (date(2024, 2, 28) - first).days == shift
    assert [shifted_date(bad, 1) for bad in ("", "20241301", "2024", "yesterday", "00010101")] == [None] * 5


_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=3)
_PARTS = st.lists(_TEXT, min_size=1, max_size=3)


@given(st.lists(_PARTS, max_size=20, unique_by=tuple))
def test_different_identities_have_different_pseudonyms(key_file: Path, identities: list[list[str]]) -> None:
    names = Pseudonymizer(key_file)
    assert len({names.keyed(*parts) for parts in identities}) == len(identities)


def test_a_new_key_is_private_random_and_never_overwrites(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        new_key(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert len(bytes.fromhex(path.read_text())) == 32
    assert paths[0].read_text() != paths[1].read_text()
    before = paths[0].read_bytes()
    with pytest.raises(FmctError, match=r"a: already exists"):
        new_key(paths[0])
    assert paths[0].read_bytes() == before
    with pytest.raises(FmctError, match=r"No such file"):
        new_key(tmp_path / "absent" / "key")


@pytest.mark.parametrize(
    ("content", "mode", "remedy"),
    [
        (None, 0, r"no such key file.*fmct keygen"),
        (b"", 0o600, r"not 64 hexadecimal digits"),
        (b"ab" * 31, 0o600, r"not 64 hexadecimal digits"),
        (b"xy" * 32, 0o600, r"not 64 hexadecimal digits"),
        (b"\xff" * 32, 0o600, r"not a readable key file"),
        (b"0" * 64, 0o600, r"can be guessed"),
        (b"0123456789abcd" * 4 + b"01234567", 0o600, r"can be guessed"),
        (b"ab" * 32, 0o640, r"chmod 600"),
        (b"ab" * 32, 0o604, r"chmod 600"),
    ],
)
def test_an_unusable_key_file_is_named_with_the_remedy(
    tmp_path: Path, content: bytes | None, mode: int, remedy: str
) -> None:
    path = tmp_path / "hmac.key"
    if content is not None:
        path.write_bytes(content)
        os.chmod(path, mode)
    with pytest.raises(FmctError, match=remedy) as caught:
        Pseudonymizer(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_key_that_another_user_owns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "hmac.key"
    new_key(path)
    os.chown(path, 12345, 12345)
    with pytest.raises(FmctError, match=r"another user \(uid 12345\)"):
        Pseudonymizer(path)


def test_a_folder_fifo_or_device_is_refused_as_a_key(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(FmctError, match=str(path)):
            Pseudonymizer(path)


def test_the_key_cannot_be_pickled_or_printed(key_file: Path) -> None:
    names = Pseudonymizer(key_file)
    with pytest.raises(TypeError, match="key"):
        pickle.dumps(names)
    assert key_file.read_text().strip() not in repr(names) + str(names)
