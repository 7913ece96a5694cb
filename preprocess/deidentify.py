"""Keyed pseudonyms: what stands in every output where the source has an identifier.

A pseudonym is HMAC-SHA256 (RFC 2104, FIPS 198-1) of the identifier under the site's secret, cut to its
first 128 bits, the least that RFC 2104 section 5 allows for a 256-bit hash. Without the secret an
identifier cannot be confirmed by trying it, as it could with a bare hash.
"""

import hmac
import os
import secrets
import stat
from pathlib import Path

from shards.errors import FmctError

KEY_BYTES = 32
"""As long as the hash's output: RFC 2104 section 3 finds shorter keys weak and longer ones no better."""
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
        raise FmctError(f"{path}: exists and is not overwritten; name a new file") from None
    except OSError as error:
        raise FmctError(f"{path}: cannot be made ({os.strerror(error.errno or 0)}); name another") from None
    with os.fdopen(descriptor, "w") as stream:
        stream.write(secrets.token_hex(KEY_BYTES) + "\n")
        stream.flush()
        os.fsync(descriptor)


class Pseudonymizer:
    """Gives the pseudonyms of one key file; equal identifiers get equal pseudonyms.

    Patients, studies and series are separate domains, so that one string used as two kinds of
    identifier shows no link. An object of this class cannot be pickled: the key stays in its process.

    Raises FmctError where the file is missing, malformed, or readable by others than its owner.
    """

    def __init__(self, key_file: Path):
        self._key = _read_key(key_file)

    def __reduce__(self) -> str:
        raise TypeError("the key must not leave its process; pass the key file's path")

    def patient(self, patient_id: str, study_uid: str) -> str:
        """Pseudonym of a patient, 32 hexadecimal digits.

        Where Patient ID (0010,0020) is empty the study counts as a patient of its own: one shared
        pseudonym would make a single patient of the whole archive.
        """
        return self.keyed("patient", patient_id) if patient_id else self.keyed("patient of study", study_uid)

    def study(self, study_uid: str) -> str:
        """Pseudonym of Study Instance UID (0020,000D), 32 hexadecimal digits."""
        return self.keyed("study", study_uid)

    def series(self, patient_id: str, study_uid: str, series_uid: str) -> str:
        """Pseudonym of a series of the catalog, 32 hexadecimal digits.

        Patient and study belong to it, because careless anonymisation repeats series UIDs.
        """
        return self.keyed("series", patient_id, study_uid, series_uid)

    def keyed(self, domain: str, *parts: str) -> str:
        """HMAC-SHA256 of the NUL-separated domain and parts, its first 32 hexadecimal digits."""
        message = "\0".join([domain, *parts]).encode()
        return hmac.digest(self._key, message, "sha256").hex()[:PSEUDONYM_DIGITS]


def _read_key(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        text = path.read_text().strip()
    except FileNotFoundError:
        raise FmctError(f"{path}: no such key file; make one with `fmct keygen {path}`") from None
    except (OSError, UnicodeDecodeError):
        raise FmctError(f"{path}: not readable as a key file; make one with `fmct keygen`") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise FmctError(f"{path}: the key is open to other users; close it with `chmod 600 {path}`")
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise FmctError(
            f"{path}: not {2 * KEY_BYTES} hexadecimal digits; restore the key or `fmct keygen` anew"
        )
    return key
