"""3D foundation models of head CT: data, model, objective, training, probing."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fmct_hpc.train.export import EncoderInfo, load_encoder

__all__ = ["EncoderInfo", "load_encoder"]


def __getattr__(name: str) -> Any:
    """Import PyTorch when it is asked for: a reader process, of which there are many, does without."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fmct_hpc.train import export

    return getattr(export, name)
