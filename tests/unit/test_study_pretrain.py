"""An encoder in a study's folder is reused only if it matches the recipe."""

from pathlib import Path

import pytest
from small_training import small_config, small_encoder, write_dataset

from fmct_hpc.train.export import encoder_info
from launch.study.pretrain import pretrain
from shards.errors import FmctError


def test_an_encoder_of_another_model_than_the_recipe_is_refused(tmp_path: Path) -> None:
    data, run = write_dataset(tmp_path / "data", 2), tmp_path / "run"
    encoder = small_encoder(data, run)
    assert encoder == run / "encoder.safetensors"
    recipe = small_config(data)
    recipe = recipe.model_copy(update={"model": encoder_info(encoder).model})
    assert pretrain(recipe, run) == encoder
    of_0_1_0 = recipe.model.model_copy(update={"input_mean": 0.0, "input_std": 1.0})
    with pytest.raises(FmctError, match="another model"):
        pretrain(recipe.model_copy(update={"model": of_0_1_0}), run)
