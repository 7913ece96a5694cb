"""From a raw DICOM export to de-identified volumes on one grid, in shards."""

from typing import TYPE_CHECKING

from shards.lazy import exports

if TYPE_CHECKING:
    from preprocess.config import PreprocessConfig
    from preprocess.explain import explain as explain_selection
    from preprocess.labels import key_labels
    from preprocess.privacy.deidentify import new_key
    from preprocess.run import preprocess as preprocess_catalog
    from preprocess.scan.run import scan as scan_export

    __version__: str

__all__ = [
    "PreprocessConfig",
    "__version__",
    "explain_selection",
    "key_labels",
    "new_key",
    "preprocess_catalog",
    "scan_export",
]

__getattr__, __dir__ = exports(
    __name__,
    {
        "PreprocessConfig": "preprocess.config",
        "explain_selection": "preprocess.explain:explain",
        "key_labels": "preprocess.labels",
        "new_key": "preprocess.privacy.deidentify",
        "preprocess_catalog": "preprocess.run:preprocess",
        "scan_export": "preprocess.scan.run:scan",
    },
)
