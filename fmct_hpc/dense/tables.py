"""The tables of `fmct segment`, with one row per result, scored volume and comparison, respectively."""

import pyarrow as pa

from fmct_hpc.dense.figures import FIGURES, OF_TRUTH

UNIT = [
    ("encoder", pa.string()),
    ("head", pa.string()),
    ("layer", pa.int32()),
    ("seed", pa.int64()),
]
_CELL = [*UNIT, ("class", pa.string()), ("split", pa.string())]

RESULTS = pa.schema(
    [
        *_CELL,
        ("step", pa.int64()),
        *((name, pa.int64()) for name in ("n_train", "n_validation", "n", "n_with", "patients")),
        *((f"{figure}{end}", pa.float64()) for figure in FIGURES for end in ("", "_low", "_high")),
        ("dice_ceiling", pa.float64()),
        ("threshold", pa.float64()),
        ("chosen", pa.string()),
        ("reason", pa.string()),
        ("reason_code", pa.string()),
    ]
)

VOLUMES = pa.schema(
    [
        *_CELL,
        ("key", pa.string()),
        *((name, pa.float64()) for name in (*OF_TRUTH, "truth_ml", "predicted_ml", "dice_ceiling")),
    ]
)

COMPARISONS = pa.schema(
    [
        ("encoder", pa.string()),
        ("versus", pa.string()),
        *_CELL[1:],
        ("n_with", pa.int64()),
        *(
            (f"{figure}_difference{end}", pa.float64())
            for figure in OF_TRUTH
            for end in ("", "_low", "_high")
        ),
    ]
)
