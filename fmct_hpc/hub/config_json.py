"""config.json of an exported encoder: keys of transformers, and architecture, input and training."""

from typing import Any

from fmct_hpc.data.kernel import AIR_HU
from fmct_hpc.fields import edges
from fmct_hpc.hub.prepare import ALIGNED
from fmct_hpc.train.export import EncoderInfo


def describe(info: EncoderInfo) -> dict[str, Any]:
    """The content of config.json: keys of transformers, and network, input and training under "fmct"."""
    data = info.data
    return {
        "model_type": "fmct_hpc_encoder",
        "architectures": ["FmctModel"],
        "auto_map": {"AutoConfig": "modeling_fmct.FmctConfig", "AutoModel": "modeling_fmct.FmctModel"},
        "dtype": "float32",
        "hidden_size": info.model.width,
        "num_hidden_layers": info.model.depth,
        "num_attention_heads": info.model.heads,
        "fmct": {
            "model": info.model.model_dump(mode="json"),
            "preprocessing": {
                "axes": ["superior", "anterior", "right"],
                "values": "HU",
                "outside_hu": AIR_HU,
                "spacing_mm": list(info.spacing_mm),
                "resampling": "trilinear",
                "oblique_above_sine": ALIGNED,
                "field": data.field,
                "field_mm": data.field_mm,
                "windows": [list(window) for window in data.windows],
                "view_size": list(edges(data.view_size)),
                "head": "in the centre of the volume, as cropped by `fmct preprocess`",
                "input_mean": info.model.input_mean,
                "input_std": info.model.input_std,
                "digest": info.preprocess_digest,
                "configuration": info.preprocessing,
            },
            "training": {
                "step": info.step,
                "origin": info.origin,
                "dataset_digest": info.dataset_digest,
                "code_version": info.code_version,
                "data": data.model_dump(mode="json", exclude={"path", "cache"}),
            },
        },
    }
