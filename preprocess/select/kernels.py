"""The class of a reconstruction kernel, soft tissue or bone (sharp), by vendor naming scheme or words."""

import re
from collections.abc import Sequence
from functools import lru_cache

from preprocess.dicom.catalog import Instance, commonest
from preprocess.select.lexicon import Lexicon
from shards.schema import KernelClass

# GE, "Reconstruction Algorithm" of the operator manuals. A trailing "+" is a variant of the same
# sharpness (HiSpeed), "HD " the high-definition detector mode, a leading "X" a deep-learning variant.
_GE_SOFT = {"SOFT", "STANDARD", "STND", "STD", "DETAIL", "SMOOTH", "CHEST", "CHST"}
_GE_BONE = {"BONE", "BONEPLUS", "EDGE", "EDGEPLUS", "LUNG", "ULTRA"}

# Philips Brilliance/Ingenuity filters: A, B, C smooth to sharp body and UA, UB, UC brain; D, E, F
# (high resolution), L (lung) and YA to YD (bone, inner ear).
_PHILIPS_SOFT = {"A", "B", "C", "UA", "UB", "UC"}
_PHILIPS_BONE = {"D", "E", "F", "L", "YA", "YB", "YC", "YD"}

# Siemens (SOMATOM operator manuals, "Kernels"): family letters, then two digits that grow with
# sharpness. B body, H head, C child, I/J iterative, Q quantitative, D dual energy, T topogram, S special,
# P/L special: all sharp from 50 on ("for higher sharpness ... B50s, B60s"). U, ultra-high resolution,
# is for bone throughout.
_SIEMENS = re.compile(r"([A-Z])[A-Z]?(\d\d)[A-Z]*")
_SIEMENS_SHARP_FROM = 50

# Toshiba and Canon (Aquilion, "FC" numbers by tens): 30 inner ear and bone, 50 lung, 80 high-resolution
# bone; the other tens are body and brain, with or without beam-hardening correction.
_CANON = re.compile(r"FC(\d\d)")
_CANON_SHARP_TENS = {3, 5, 8}

_OTHER_VALUES = re.compile(r"[,;|'\"].*|/\d+$")
"""What programs that list the values otherwise write after the first: "['Hr68f', '3']", "Hr68f/3"."""


@lru_cache(maxsize=4096)
def kernel_class(kernel: str, lexicon: Lexicon) -> KernelClass:
    """Class of Convolution Kernel (0018,1210); "unknown" for a name outside the known schemes.

    Of several values the first names the kernel (the next is an iterative strength, as in Siemens'
    "Hr40f\\3"). Vendors without a scheme (United Imaging, Neusoft, Hitachi) use words; words for sharp
    kernels are tried first.
    """
    name = kernel.split("\\")[0].strip().upper()
    whole = re.sub(r"^(HD|X)\s+|[\s+]+$", "", name).replace(" ", "")
    plain = _OTHER_VALUES.sub("", whole.strip("[]()'\""))
    if plain in _GE_SOFT | _PHILIPS_SOFT:
        return "soft"
    if plain in _GE_BONE | _PHILIPS_BONE:
        return "bone"
    if canon := _CANON.match(plain):
        return "bone" if int(canon[1]) // 10 in _CANON_SHARP_TENS else "soft"
    if siemens := _SIEMENS.fullmatch(plain):
        sharp = siemens[1] == "U" or int(siemens[2]) >= _SIEMENS_SHARP_FROM
        return "bone" if sharp else "soft"
    meanings = lexicon.meanings(whole, "kernel")
    return "bone" if "bone" in meanings else "soft" if "soft" in meanings else "unknown"


def sharpness(image: Instance, lexicon: Lexicon) -> KernelClass:
    """The class of an image's kernel; an unknown kernel is bone if the series description names only bone."""
    sharpness_ = kernel_class(image.kernel, lexicon)
    if sharpness_ == "unknown" and lexicon.meanings(image.texts.series_description, "kernel") == {"bone"}:
        return "bone"
    return sharpness_


def common_sharpness(images: Sequence[Instance], lexicon: Lexicon) -> KernelClass:
    """The class of the most frequent kernel of images."""
    kernel = commonest(image.kernel for image in images)
    return sharpness(next(image for image in images if image.kernel == kernel), lexicon)
