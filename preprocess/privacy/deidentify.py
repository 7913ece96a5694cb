"""Keyed pseudonyms, which replace identifiers in all outputs.

A pseudonym is HMAC-SHA256 (RFC 2104, FIPS 198-1) of the identifier under the site's secret key, truncated to
128 bits, the minimum of RFC 2104 section 5 for a 256-bit hash. Without the key, guessed identifiers cannot be
confirmed, as they could with a plain hash.
"""

import hmac
import os
import secrets
import stat
import unicodedata
from datetime import date, timedelta
from pathlib import Path

from shards.errors import FmctError, raise_refusal

KEY_BYTES = 32
"""The length of the hash: by RFC 2104 section 3, shorter keys are weaker and longer ones not stronger."""
MIN_DISTINCT = 8
"""Least number of different bytes: 32 random bytes have 7 or fewer with a probability below 10^-36."""
_MAX_FILE_BYTES = 1024
PSEUDONYM_DIGITS = 32
"""Hexadecimal digits of a pseudonym."""


def new_key(path: Path) -> None:
    """Write 32 random bytes, in hexadecimal, to a new file that only its owner can read (mode 0600).

    Raises FmctError if the file exists, because a lost key makes its volumes untraceable, or if it cannot be
    created.
    """
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        raise FmctError(f"{path}: already exists; give a new file") from None
    except OSError as error:
        raise FmctError(
            f"{path}: cannot be created ({os.strerror(error.errno or 0)}); give another path"
        ) from None
    with os.fdopen(descriptor, "w") as stream:
        stream.write(secrets.token_hex(KEY_BYTES) + "\n")
        stream.flush()
        os.fsync(descriptor)


class Pseudonymizer:
    """Computes pseudonyms with one key file; equal identifiers get equal pseudonyms.

    Patients, studies and series are separate domains, so that a string used as two kinds of identifier gives
    unrelated pseudonyms. Objects of this class cannot be pickled: the key stays in its process.

    Raises FmctError if the file is missing, malformed, another user's or readable by others, or if its key is
    not random.
    """

    def __init__(self, key_file: Path):
        self._key = _read_key(key_file)

    def __reduce__(self) -> str:
        raise TypeError("the key must not leave its process; pass the path of the key file")

    def patient(self, patient_id: str, study_uid: str) -> str:
        """Pseudonym of a patient, 32 hexadecimal digits, from the Patient ID normalised by `same_patient`.

        If Patient ID (0010,0020) is empty, each study counts as a separate patient: a shared pseudonym would
        make the whole archive one patient.
        """
        return self.keyed(*_patient_parts(patient_id, study_uid))

    def date_shift(self, patient_id: str, study_uid: str, max_days: int) -> int:
        """Days, 1 to `max_days`, by which all dates of a patient are shifted into the past."""
        digits = self.keyed("date shift", *_patient_parts(patient_id, study_uid))
        return 1 + int(digits, 16) % max_days

    def study(self, study_uid: str) -> str:
        """Pseudonym of Study Instance UID (0020,000D), 32 hexadecimal digits."""
        return self.keyed("study", study_uid)

    def series(self, patient_id: str, study_uid: str, series_uid: str) -> str:
        """Pseudonym of a series of the catalog, 32 hexadecimal digits.

        It depends on patient and study too, because careless anonymisation reuses series UIDs.
        """
        return self.keyed("series", patient_id, study_uid, series_uid)

    @property
    def fingerprint(self) -> str:
        """Identifier of the key that does not reveal it, 32 hexadecimal digits."""
        return self.keyed("fingerprint of the key")

    def keyed(self, domain: str, *parts: str) -> str:
        """The first 32 hexadecimal digits of HMAC-SHA256 over the NUL-separated domain and parts."""
        message = "\0".join([domain, *parts]).encode()
        return hmac.digest(self._key, message, "sha256").hex()[:PSEUDONYM_DIGITS]


def _patient_parts(patient_id: str, study_uid: str) -> tuple[str, str]:
    patient = same_patient(patient_id)
    return ("patient", patient) if patient else ("patient of study", study_uid)


def same_patient(patient_id: str) -> str:
    """Patient ID (0010,0020) normalised for changes by other systems: case, blanks, width, leading zeros.

    Two patients merged into one only share a split; one patient split into two could be in training and test
    set. For the same reason Issuer of Patient ID (0010,0021), which not all systems send, is ignored.
    """
    plain = "".join(unicodedata.normalize("NFKC", patient_id).upper().split())
    return plain.lstrip("0") or "0" if plain.isdecimal() else plain


def shifted_date(study_date: str, days: int) -> date | None:
    """Study Date (DA, PS3.5 section 6.2) minus `days`; None if it is not a date."""
    digits = study_date.strip().replace(".", "")  # ACR-NEMA wrote 1993.08.22
    if len(digits) != 8 or not digits.isdecimal():
        return None
    try:
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:])) - timedelta(days)
    except (ValueError, OverflowError):
        return None


def _read_key(path: Path) -> bytes:
    try:
        with open(path, "rb", opener=_open_at_once) as stream:
            status = os.fstat(stream.fileno())
            text = stream.read(_MAX_FILE_BYTES).decode().strip() if stat.S_ISREG(status.st_mode) else ""
    except FileNotFoundError:
        raise FmctError(f"{path}: no such key file; make one with `fmct keygen {path}`") from None
    except (OSError, UnicodeDecodeError) as error:
        raise_refusal(error, path)
        raise FmctError(f"{path}: not a readable key file; make one with `fmct keygen`") from None
    if status.st_uid not in (os.geteuid(), 0):
        raise FmctError(
            f"{path}: belongs to another user (uid {status.st_uid}), who can change it; copy it to your own "
            "file, or make one with `fmct keygen`"
        )
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise FmctError(f"{path}: other users can read the key; run `chmod 600 {path}`")
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise FmctError(
            f"{path}: not {2 * KEY_BYTES} hexadecimal digits; restore the key, or run `fmct keygen`"
        )
    if len(set(key)) < MIN_DISTINCT:
        raise FmctError(f"{path}: the key is not random and can be guessed; make one with `fmct keygen`")
    return key


def _open_at_once(path: str, flags: int) -> int:
    """`os.open` without waiting for the other end of a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)
