"""3D foundation models of head CT: data, model, objective, training, probing."""

from fmct_hpc.train.export import EncoderInfo, load_encoder

__all__ = ["EncoderInfo", "load_encoder"]
