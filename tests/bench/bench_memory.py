"""Bytes per rank under each ZeRO stage, and in theory: `python tests/bench/bench_memory.py [STAGE...]`.

Student, teacher and AdamW's state of a run in float32 (the same with bf16, which is autocast), on 1, 2 and 4
ranks over gloo, after a step, when gradients are freed. Measured is the size of the tensors' storages, each
counted once; "all" is every live tensor of the process, including DeepSpeed's buffers.

Theory is fmct_hpc.train.dry_run.held_bytes.
"""

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from markdown_table import heading, row
from tiny import parsed

sys.path.insert(0, str(Path(__file__).parents[1]))
from small_training import after_a_step, small_config, write_dataset

from fmct_hpc.config import TrainConfig
from fmct_hpc.train.dry_run import held_bytes
from launch.ranks import run_ranks

MODEL = {
    **{"width": 384, "depth": 8, "heads": 6, "prototypes": 16384, "head_hidden": 1024},
    **{"head_bottleneck": 256, "decoder_width": 192, "decoder_depth": 2, "decoder_heads": 3},
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("stages", type=int, nargs="*", default=[0, 1, 2, 3])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--small", action="store_true", help="a model of some thousand parameters")
    parser.add_argument("--apart", action=argparse.BooleanOptionalAction, default=True, help="in processes")
    options = parsed(parser, arguments, stages=[2], ranks=[1], small=True, apart=False)
    if not options.apart and options.ranks != [1]:
        parser.error("--no-apart: one rank")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_dataset(folder / "data")
        heading("ZeRO stage", "ranks", "theory MB", "measured MB", "ratio", "all MB")
        for stage in options.stages:
            config = small_config(data, model={} if options.small else MODEL, engine={"zero_stage": stage})
            (folder / "config.json").write_text(config.model_dump_json())
            for ranks in options.ranks:
                if options.apart:
                    code = run_ranks([sys.executable, __file__, str(folder)], ranks).code
                    assert code == 0, f"stage {stage} on {ranks} ranks ended with {code}"
                else:
                    rank_main(folder)
                rows = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(ranks)]
                most = max(rows, key=lambda one: one["measured"])
                theory = held_bytes(stage, ranks, most["student"], most["teacher"])
                megabytes = (f"{number / 1e6:.1f}" for number in (theory, most["measured"], most["all"]))
                reported, measured, everything = megabytes
                row(stage, ranks, reported, measured, f"{most['measured'] / theory:.3f}", everything)


def rank_main(folder: Path) -> None:
    from fmct_hpc.train.process_group import join

    place = join("cpu")
    from fmct_hpc.train.partition import masters, own_part

    config = TrainConfig.model_validate_json((folder / "config.json").read_text())
    training = after_a_step(config)
    assert training.teacher
    student = list(training.engine.module.parameters())
    teacher = list(training.teacher.parameters.values())
    held = [own_part(parameter) for parameter in student + teacher]
    held += [master.tensor for master in masters(training.engine)]
    held += [piece.values for piece in training.state.pieces()]
    gc.collect()
    plain = torch.Tensor, torch.nn.Parameter  # a compiler's tensors without memory are of other classes
    live = [thing for thing in gc.get_objects() if type(thing) in plain]
    facts = {
        "student": sum(getattr(p, "ds_numel", p.numel()) for p in student),
        "teacher": sum(getattr(p, "ds_numel", p.numel()) for p in teacher),
        "measured": size(held),
        "all": size([*live, *held]),
    }
    (folder / f"rank-{place.rank}.json").write_text(json.dumps(facts))
    torch.distributed.barrier()
    time.sleep(0.2)


def size(tensors: Iterable[torch.Tensor]) -> int:
    blocks = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(blocks.values())


if __name__ == "__main__":
    if "RANK" in os.environ:
        rank_main(Path(sys.argv[1]))
    else:
        main()
