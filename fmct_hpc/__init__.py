"""3D foundation models of head CT: data, model, objective, training, probing.

Exported names import PyTorch on first access: the many reader processes do not need it.
"""

from typing import TYPE_CHECKING

from shards.lazy import exports

if TYPE_CHECKING:
    from fmct_hpc.classifier.predict import Classifier, load_classifier
    from fmct_hpc.config import TrainConfig
    from fmct_hpc.data.volumes import VolumeDataset
    from fmct_hpc.inference.features import ScanFeatures, features
    from fmct_hpc.plot import plot_volume
    from fmct_hpc.probe.config import ProbeConfig
    from fmct_hpc.probe.run import ProbeResult
    from fmct_hpc.probe.run import probe as probe_run
    from fmct_hpc.train.export import EncoderInfo, load_encoder
    from fmct_hpc.train.run import train as pretrain

    __version__: str

__all__ = [
    "Classifier",
    "EncoderInfo",
    "ProbeConfig",
    "ProbeResult",
    "ScanFeatures",
    "TrainConfig",
    "VolumeDataset",
    "__version__",
    "features",
    "load_classifier",
    "load_encoder",
    "plot_volume",
    "pretrain",
    "probe_run",
]

__getattr__, __dir__ = exports(
    __name__,
    {
        "Classifier": "fmct_hpc.classifier.predict",
        "EncoderInfo": "fmct_hpc.train.export",
        "ProbeConfig": "fmct_hpc.probe.config",
        "ProbeResult": "fmct_hpc.probe.run",
        "ScanFeatures": "fmct_hpc.inference.features",
        "TrainConfig": "fmct_hpc.config",
        "VolumeDataset": "fmct_hpc.data.volumes",
        "features": "fmct_hpc.inference.features",
        "load_classifier": "fmct_hpc.classifier.predict",
        "load_encoder": "fmct_hpc.train.export",
        "plot_volume": "fmct_hpc.plot",
        "pretrain": "fmct_hpc.train.run:train",
        "probe_run": "fmct_hpc.probe.run:probe",
    },
)
