"""Scanner names in a fixed vocabulary, because the attributes are free text and may contain names."""

MODALITIES = frozenset(
    (
        *("ANN", "AR", "ASMT", "AU", "BDUS", "BI", "BMD", "CFM", "CR", "CT", "CTPROTOCOL", "DG", "DMS"),
        *("DOC", "DX", "ECG", "EEG", "EMG", "EOG", "EPS", "ES", "FID", "GM", "HC", "HD", "IO", "IOL"),
        *("IVOCT", "IVUS", "KER", "KO", "LEN", "LS", "M3D", "MG", "MR", "NM", "OAM", "OCT", "OP", "OPM"),
        *("OPT", "OPTBSV", "OPTENF", "OPV", "OSS", "OT", "PA", "PLAN", "POS", "PR", "PT", "PX", "REG"),
        *("RESP", "RF", "RG", "RTDOSE", "RTIMAGE", "RTINTENT", "RTPLAN", "RTRAD", "RTRECORD", "RTSEGANN"),
        *("RTSTRUCT", "RWV", "SEG", "SM", "SMR", "SR", "SRF", "STAIN", "TEXTUREMAP", "TG", "US", "VA"),
        *("XA", "XAPROTOCOL", "XC"),
    )
)
"""Defined terms of Modality (0008,0060), PS3.3 C.7.3.1.1.1; the rest is "other"."""
VENDORS = ("GE", "SIEMENS", "PHILIPS", "TOSHIBA", "CANON", "HITACHI", "NEUSOFT", "UIH", "SAMSUNG")
"""Manufacturers known by a word of (0008,0070); the rest is "other"."""
FAMILIES = {
    "GE": ("HISPEED", "LIGHTSPEED", "BRIGHTSPEED", "OPTIMA", "DISCOVERY", "REVOLUTION"),
    "SIEMENS": (
        *("EMOTION", "SENSATION", "VOLUME ZOOM", "SPIRIT", "SCOPE", "PERSPECTIVE", "DEFINITION"),
        *("FORCE", "DRIVE", "EDGE", "CONFIDENCE", "GO", "X.CITE", "NAEOTOM"),
    ),
    "PHILIPS": ("BRILLIANCE", "INGENUITY", "INCISIVE", "ICT", "IQON", "MX", "ACCESS", "SPECTRAL", "GEMINI"),
    "TOSHIBA": ("AQUILION", "ALEXION", "ASTEION", "ACTIVION"),
    "CANON": ("AQUILION", "ALEXION", "LIGHTNING", "PRIME", "PRECISION"),
    "HITACHI": ("SCENARIA", "SUPRIA", "ECLOS", "ROBUSTO"),
    "NEUSOFT": ("NEUVIZ",),
    "UIH": ("UCT",),
    "SAMSUNG": ("NEXCT", "CERETOM", "BODYTOM"),
}
"""Product lines by vendor, as spelled in Manufacturer's Model Name (0008,1090); hundreds of scanners of each
line are in use, so that none identifies a hospital."""


def modality(stated: str) -> str:
    """Modality (0008,0060) as one of `MODALITIES`, "other", or empty if missing."""
    return stated if stated in MODALITIES or not stated else "other"


def vendor(manufacturer: str) -> str:
    """Manufacturer (0008,0070) as one of `VENDORS`, or "other"."""
    words = _words(manufacturer)
    return next((name for name in VENDORS if name in words), "other")


def scanner(manufacturer: str, model: str) -> str:
    """Vendor and product line of (0008,0070) and (0008,1090): "GE LIGHTSPEED", or the vendor alone."""
    maker = vendor(manufacturer)
    text = " ".join(_words(model))
    # A line's name may be followed by a number (MX8000, uCT780), but never starts within a word.
    line = next((name for name in FAMILIES.get(maker, ()) if f" {name}" in f" {text}"), "")
    return f"{maker} {line}".strip()


def _words(text: str) -> list[str]:
    return text.upper().replace("_", " ").replace("-", " ").split()
