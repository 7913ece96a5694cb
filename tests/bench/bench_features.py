"""The cost of extracting features compared with the encoder alone: `python tests/bench/bench_features.py`.

ViT-S on 96³ reads heads of realistic size at 1 mm from a zarr dataset, on one thread; process time, so
that other work on the machine has little effect. The encoder alone reads views from memory.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from bench_step import TINY
from markdown_table import heading, row
from tiny import parsed

sys.path.insert(0, str(Path(__file__).parents[1]))
from shard_samples import make_key, make_record

from fmct_hpc.data.config import DataConfig
from fmct_hpc.model.config import ModelConfig
from fmct_hpc.model.vit import VisionTransformer
from fmct_hpc.probe.encoders import OurEncoder
from fmct_hpc.probe.extraction import Extraction
from fmct_hpc.probe.features import extract_store
from fmct_hpc.probe.store import FeatureStore
from fmct_hpc.train.export import EncoderInfo
from preprocess.demo.anatomy import head_hu
from preprocess.demo.head import draw_anatomy
from shards import Dataset, ShardWriter, finish_dataset
from shards.voxels import INDEX_STEPS


def write(folder: Path, volumes: int, shape: tuple[int, ...]) -> Dataset:
    """Synthetic heads with noise."""
    index = np.stack([*np.indices(shape)], axis=-1) - np.array(shape) / 2
    with ShardWriter(folder, "shard-00000", "zarr") as shard:
        for number in range(volumes):
            clean = head_hu(index @ INDEX_STEPS, draw_anatomy(0, number))
            hu = np.rint(clean + np.random.default_rng(number).normal(0, 5, shape)).astype(np.int16)
            shard.add(make_record(hu, make_key(number)), hu)
    finish_dataset(folder, "zarr", ["shard-00000"])
    return Dataset.open(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volumes", type=int, default=8)
    parser.add_argument("--shape", type=int, nargs=3, default=[176, 220, 190])
    parser.add_argument("--size", choices=("tiny", "S", "B", "L"), default="S")
    options = parsed(parser, arguments, volumes=2, shape=[40, 40, 40], size="tiny")
    volumes, tiny = options.volumes, options.size == "tiny"
    torch.set_num_threads(1)
    edge = 24 if tiny else 96
    data = DataConfig(path=Path(), view_size=edge)
    model = ModelConfig.model_validate(TINY if tiny else {"size": options.size})
    last = model.depth - 1
    info = EncoderInfo(step=0, model=model, data=data, spacing_mm=(1.0, 1.0, 1.0), code_version="bench")
    encoder = OurEncoder(VisionTransformer(model, 3, edge).eval(), info)
    with tempfile.TemporaryDirectory() as folder:
        dataset = write(Path(folder) / "data", volumes, tuple(options.shape))
        encoder.transform(dataset.read(0), (1.0, 1.0, 1.0))  # compiles

        def seconds(work: Callable[[], object]) -> float:
            start = time.process_time()
            work()
            return (time.process_time() - start) / volumes

        stored: list[np.ndarray] = []
        views: list[torch.Tensor] = []
        reading = seconds(lambda: stored.extend(dataset.read(i) for i in range(volumes)))
        windowing = seconds(lambda: views.extend(encoder.transform(v, (1.0, 1.0, 1.0)) for v in stored))
        batches = torch.stack(views).split(4)
        with torch.inference_mode():
            encoder.tokens(batches[0], [last])
            alone = seconds(lambda: [encoder.tokens(batch, [last]) for batch in batches])
        out = Path(folder) / "store"
        request = Extraction(encoder, "S", dataset, tokens=True, batch=4)
        whole = seconds(lambda: extract_store(request, out))
        again = seconds(lambda: extract_store(request, out))
        opened = seconds(lambda: FeatureStore.open(out).tokens())
    print(f"{volumes} volumes of {'×'.join(map(str, options.shape))}, ViT-{options.size}, one thread")
    heading("work", "CPU ms a volume", "of the encoder alone")
    for what, cost in (
        ("read a volume, CRC checked", reading),
        (f"window it and average it to {edge}³", windowing),
        ("the encoder alone, views in memory", alone),
        ("extract_store, patch tokens kept", whole),
        ("extract_store again: nothing to do", again),
        ("open the store and check the tokens' digest", opened),
    ):
        row(what, f"{1000 * cost:.1f}", f"{cost / alone:.2f}")


if __name__ == "__main__":
    main()
