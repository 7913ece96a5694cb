"""3D foundation models of head CT: data, model, objective, training, probing."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fmct_hpc.classifier.predict import Classifier, load_classifier
    from fmct_hpc.inference.features import ScanFeatures, features
    from fmct_hpc.train.export import EncoderInfo, load_encoder

_HOME = {
    "Classifier": "fmct_hpc.classifier.predict",
    "EncoderInfo": "fmct_hpc.train.export",
    "ScanFeatures": "fmct_hpc.inference.features",
    "features": "fmct_hpc.inference.features",
    "load_classifier": "fmct_hpc.classifier.predict",
    "load_encoder": "fmct_hpc.train.export",
}
__all__ = ["Classifier", "EncoderInfo", "ScanFeatures", "features", "load_classifier", "load_encoder"]


def __getattr__(name: str) -> Any:
    """Import PyTorch when it is asked for: a reader process, of which there are many, does without."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
