"""Keyed pseudonyms: what stands in every output where the source has an identifier.

A pseudonym is HMAC-SHA256 (RFC 2104, FIPS 198-1) of the identifier under the site's secret, cut to its
first 128 bits, the least that RFC 2104 section 5 allows for a 256-bit hash. Without the secret an
identifier cannot be confirmed by trying it, as it could with a bare hash.
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
"""As long as the hash's output: RFC 2104 section 3 finds shorter keys weak and longer ones no better."""
LEAST_DISTINCT = 8
"""Different bytes in a key: 32 random ones have 7 or fewer with a probability below 10^-36."""
_MOST_FILE_BYTES = 1024
PSEUDONYM_DIGITS = 32
"""Hexadecimal digits of a pseudonym."""


def new_key(path: Path) -> None:
    """Write 32 random bytes, in hexadecimal, to a new file that its owner alone can read (mode 0600).

    Raises FmctError where the file exists, for a lost key makes its volumes untraceable, or where it
    cannot be made.
    """
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        raise FmctError(f"{path}: exists and is not overwritten; give a new file") from None
    except OSError as error:
        raise FmctError(
            f"{path}: cannot be created ({os.strerror(error.errno or 0)}); give another"
        ) from None
    with os.fdopen(descriptor, "w") as stream:
        stream.write(secrets.token_hex(KEY_BYTES) + "\n")
        stream.flush()
        os.fsync(descriptor)


class Pseudonymizer:
    """Gives the pseudonyms of one key file; equal identifiers get equal pseudonyms.

    Patients, studies and series are separate domains, so that one string used as two kinds of
    identifier shows no link. An object of this class cannot be pickled: the key stays in its process.

    Raises FmctError where the file is missing, malformed, another user's or readable by others, and where its
    key is not random.
    """

    def __init__(self, key_file: Path):
        self._key = _read_key(key_file)

    def __reduce__(self) -> str:
        raise TypeError("the key must not leave its process; pass the key file's path")

    def patient(self, patient_id: str, study_uid: str) -> str:
        """Pseudonym of a patient, 32 hexadecimal digits, of Patient ID as `same_patient` writes it.

        Where Patient ID (0010,0020) is empty the study counts as a patient of its own: one shared
        pseudonym would make a single patient of the whole archive.
        """
        return self.keyed(*_patient_parts(patient_id, study_uid))

    def date_shift(self, patient_id: str, study_uid: str, most_days: int) -> int:
        """Days, 1 to `most_days`, by which all dates of a patient are moved into the past."""
        digits = self.keyed("date shift", *_patient_parts(patient_id, study_uid))
        return 1 + int(digits, 16) % most_days

    def study(self, study_uid: str) -> str:
        """Pseudonym of Study Instance UID (0020,000D), 32 hexadecimal digits."""
        return self.keyed("study", study_uid)

    def series(self, patient_id: str, study_uid: str, series_uid: str) -> str:
        """Pseudonym of a series of the catalog, 32 hexadecimal digits.

        Patient and study belong to it, because careless anonymisation repeats series UIDs.
        """
        return self.keyed("series", patient_id, study_uid, series_uid)

    @property
    def fingerprint(self) -> str:
        """Identifies this key without revealing it, 32 hexadecimal digits."""
        return self.keyed("fingerprint of the key")

    def keyed(self, domain: str, *parts: str) -> str:
        """HMAC-SHA256 of the NUL-separated domain and parts, its first 32 hexadecimal digits."""
        message = "\0".join([domain, *parts]).encode()
        return hmac.digest(self._key, message, "sha256").hex()[:PSEUDONYM_DIGITS]


def _patient_parts(patient_id: str, study_uid: str) -> tuple[str, str]:
    patient = same_patient(patient_id)
    return ("patient", patient) if patient else ("patient of study", study_uid)


def same_patient(patient_id: str) -> str:
    """Patient ID (0010,0020) without what systems that copy it change: case, blanks, width, leading zeros.

    Two patients who become one only share a split; one patient who becomes two is in both, and the test
    set is spoilt. For the same reason Issuer of Patient ID (0010,0021), which one system sends and
    another does not, plays no part.
    """
    plain = "".join(unicodedata.normalize("NFKC", patient_id).upper().split())
    return plain.lstrip("0") or "0" if plain.isdecimal() else plain


def shifted_date(study_date: str, days: int) -> date | None:
    """Study Date (DA, PS3.5 section 6.2) `days` earlier; None for what is no date."""
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
            text = stream.read(_MOST_FILE_BYTES).decode().strip() if stat.S_ISREG(status.st_mode) else ""
    except FileNotFoundError:
        raise FmctError(f"{path}: no such key file; make one with `fmct keygen {path}`") from None
    except (OSError, UnicodeDecodeError) as error:
        raise_refusal(error, path)
        raise FmctError(f"{path}: not readable as a key file; make one with `fmct keygen`") from None
    if status.st_uid not in (os.geteuid(), 0):
        raise FmctError(
            f"{path}: the key is another user's (uid {status.st_uid}), who can change it; copy it to a file "
            "of your own, or make one with `fmct keygen`"
        )
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise FmctError(f"{path}: the key is open to other users; close it with `chmod 600 {path}`")
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise FmctError(
            f"{path}: not {2 * KEY_BYTES} hexadecimal digits; restore the key, or run `fmct keygen`"
        )
    if len(set(key)) < LEAST_DISTINCT:
        raise FmctError(f"{path}: the key repeats itself, so it can be guessed; make one with `fmct keygen`")
    return key


def _open_at_once(path: str, flags: int) -> int:
    """As `os.open`, without waiting for the other end of a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)
