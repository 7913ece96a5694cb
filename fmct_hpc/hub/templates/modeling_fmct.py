"""The encoder as a model of transformers: AutoModel.from_pretrained(FOLDER, trust_remote_code=True)."""

from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .fmct_encoder import build, prepare


class FmctConfig(PretrainedConfig):
    """fmct: network, input and training, from config.json."""

    model_type = "fmct_hpc_encoder"

    def __init__(self, fmct=None, **kwargs):
        self.fmct = fmct or {}
        super().__init__(**kwargs)


class FmctModel(PreTrainedModel):
    """A frozen or trainable encoder of head CT."""

    config_class = FmctConfig
    main_input_name = "views"

    def __init__(self, config):
        super().__init__(config)
        self.encoder = build(config.fmct)
        self.post_init()

    def _init_weights(self, module):
        """Weights are initialised when the network is built."""

    def prepare(self, volume, affine, frame="LPS"):
        """float32 (1, C, D, H, W) from HU and the affine from index to patient mm; see fmct_encoder."""
        return prepare(volume, affine, self.config.fmct["preprocessing"], frame).to(self.device)

    def forward(self, views, **_):
        """views: float32 (B, C, D, H, W) in [0, 1].

        last_hidden_state: (B, prefix + N, width), CLS, registers, patches; pooler_output: CLS.
        """
        tokens = self.encoder(views)
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=tokens[:, 0])
