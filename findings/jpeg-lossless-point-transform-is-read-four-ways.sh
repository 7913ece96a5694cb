#!/usr/bin/env bash
# pylibjpeg-libjpeg 2.5.0 and imagecodecs 2026.3.6 (liblj92, jpegsof3, libjpeg-turbo), JPEG Lossless (process 14,
# transfer syntaxes 1.2.840.10008.1.2.4.57 and .70) whose scan header has a point transform Pt above 0
#
# Expected: all of them decode the same image. In ISO/IEC 10918-1 the first sample is predicted as 2^(P - Pt - 1)
# (section H.1.2.1) and the decoded samples are shifted left by Pt (section H.1.2.2), where P is the precision.
# Observed, for 12 bits and Pt = 1: libjpeg-turbo does this; jpegsof3 omits the shift; liblj92 predicts the
# first sample as 2^(P - 1) and omits the shift; libjpeg, which pydicom uses for these syntaxes if
# pylibjpeg-libjpeg is installed, also predicts it as 2^(P - 1), so every sample is 2,048 too high. None warns.
# With Pt = 0, as written by nearly all CT encoders, the four agree.
#
# Exits 1 if the four agree, or disagree in another way.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  numpy==2.4.6 pylibjpeg-libjpeg==2.5.0 imagecodecs==2026.3.6
"$work/venv/bin/python" - <<'PYTHON'
import struct
import sys
from importlib.metadata import version

import imagecodecs
import libjpeg
import numpy as np

PRECISION, SIDE = 12, 16


def encoded(image: np.ndarray, point: int) -> bytes:
    """JPEG Lossless of one component by predictor 1, with a code of four bits for each size of a difference."""
    values = image.astype(int) >> point
    predicted = np.empty_like(values)
    predicted[:, 1:] = values[:, :-1]  # from the left
    predicted[1:, 0] = values[:-1, 0]  # the first of a line from above
    predicted[0, 0] = 1 << (PRECISION - point - 1)
    bits = ""
    for difference in (values - predicted).ravel().tolist():
        size = abs(difference).bit_length()
        extra = difference if difference >= 0 else difference + (1 << size) - 1
        bits += f"{size:04b}" + (f"{extra:0{size}b}" if size else "")
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    frame = struct.pack(">HBHHB3B", 11, PRECISION, SIDE, SIDE, 1, 1, 0x11, 0)
    table = struct.pack(">HB16B", 34, 0, 0, 0, 0, 15, *[0] * 12) + bytes(range(15))
    scan = struct.pack(">HB2B3B", 8, 1, 1, 0, 1, 0, point)
    return b"\xff\xd8\xff\xc3" + frame + b"\xff\xc4" + table + b"\xff\xda" + scan + data + b"\xff\xd9"


DECODERS = {
    "libjpeg": libjpeg.decode,
    "liblj92": imagecodecs.ljpeg_decode,
    "jpegsof3": imagecodecs.jpegsof3_decode,
    "libjpeg-turbo": imagecodecs.jpeg8_decode,
}
print(f"pylibjpeg-libjpeg {version('pylibjpeg-libjpeg')}, imagecodecs {version('imagecodecs')}")
rows, columns = np.indices((SIDE, SIDE))
image = (900 + 40 * rows + 30 * columns).astype(np.uint16)
found: dict[int, dict[str, np.ndarray]] = {}
for point in (0, 1):
    standard = (image >> point) << point
    found[point] = {}
    for name, decode in DECODERS.items():
        made = np.asarray(decode(encoded(image, point))).reshape(SIDE, SIDE).astype(int)
        found[point][name] = made
        verdict = "the standard's" if np.array_equal(made, standard) else "another image"
        print(f"Pt {point}, {name:13}: first samples {made[0, :3].tolist()}, {verdict}")
standard = (image.astype(int) >> 1) << 1
changed = not (
    all(np.array_equal(made, image) for made in found[0].values())
    and np.array_equal(found[1]["libjpeg-turbo"], standard)
    and np.array_equal(found[1]["jpegsof3"], image.astype(int) >> 1)
    and np.array_equal(found[1]["libjpeg"], standard + 2048)
    and not np.array_equal(found[1]["liblj92"], standard)
    and not np.array_equal(found[1]["liblj92"], image.astype(int) >> 1)
)
sys.exit(changed)
PYTHON
