"""The tables of a sweep, with one row per result, scored volume, and comparison, respectively.

Tables of earlier versions lack the last columns; these are read as null, and `sample` as volume.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

_UNIT = [
    ("encoder", pa.string()),
    ("step", pa.int64()),
    ("task", pa.string()),
    ("method", pa.string()),
    ("pool", pa.string()),
    ("layer", pa.int32()),
    ("fraction", pa.float64()),
    ("shots", pa.int32()),
    ("seed", pa.int64()),
    ("split", pa.string()),
]

FIGURE = pa.struct(
    [("name", pa.string()), *((name, pa.float64()) for name in ("value", "low", "high", "at"))]
)
"""A metric of a label that is not binary; `at`: where it is evaluated, such as a horizon, or null."""

CURVE = pa.struct(
    [
        ("name", pa.string()),
        ("at", pa.float64()),
        *((name, pa.list_(pa.float64())) for name in ("predicted", "observed", "low", "high")),
        ("volumes", pa.list_(pa.int64())),
    ]
)
"""A reliability curve of a label that is not binary: a value per bin, the observed one with its interval."""

RESULTS = pa.schema(
    [
        *_UNIT,
        ("n_train", pa.int64()),
        ("n_validation", pa.int64()),
        ("n", pa.int64()),
        ("positives", pa.int64()),
        ("patients", pa.int64()),
        ("auc", pa.float64()),
        ("auc_low", pa.float64()),
        ("auc_high", pa.float64()),
        ("auprc", pa.float64()),
        ("auprc_low", pa.float64()),
        ("auprc_high", pa.float64()),
        ("balanced_accuracy", pa.float64()),
        ("sensitivity", pa.float64()),
        ("specificity", pa.float64()),
        ("sensitivity_at", pa.float64()),
        ("sensitivity_at_specificity", pa.float64()),
        ("specificity_at", pa.float64()),
        ("specificity_at_sensitivity", pa.float64()),
        ("ece", pa.float64()),
        ("brier", pa.float64()),
        ("reliability_predicted", pa.list_(pa.float64())),
        ("reliability_observed", pa.list_(pa.float64())),
        ("reliability_volumes", pa.list_(pa.int64())),
        ("chosen", pa.string()),
        ("reason", pa.string()),
        ("reason_code", pa.string()),
        ("threshold_reason", pa.string()),
        ("kind", pa.string()),
        ("figures", pa.list_(FIGURE)),
        ("sample", pa.string()),
        ("curves", pa.list_(CURVE)),
    ]
)

PREDICTIONS = pa.schema(
    [
        *(
            (name, pa.dictionary(pa.int32(), kind) if kind == pa.string() else kind)
            for name, kind in _UNIT
            if name != "step"
        ),
        ("key", pa.dictionary(pa.int32(), pa.string())),
        ("fold", pa.int32()),
        ("label", pa.bool_()),
        ("score", pa.float64()),
        ("value", pa.float64()),
        ("event", pa.bool_()),
        ("probabilities", pa.list_(pa.float64())),
        ("sample", pa.dictionary(pa.int32(), pa.string())),
    ]
)

COMPARISONS = pa.schema(
    [
        ("encoder", pa.string()),
        ("versus", pa.string()),
        *(column for column in _UNIT if column[0] not in ("encoder", "step")),
        ("n", pa.int64()),
        ("positives", pa.int64()),
        ("auc", pa.float64()),
        ("auc_versus", pa.float64()),
        ("difference", pa.float64()),
        ("difference_low", pa.float64()),
        ("difference_high", pa.float64()),
        ("p", pa.float64()),
        ("p_holm", pa.float64()),
        ("kind", pa.string()),
        ("figure", pa.string()),
        ("value", pa.float64()),
        ("value_versus", pa.float64()),
        ("test", pa.string()),
        ("sample", pa.string()),
        ("versus_sample", pa.string()),
    ]
)


def read(path: Path, schema: pa.Schema) -> pa.Table:
    """Read one of these tables, of this or an earlier version; missing columns are null.

    A missing sample is `volume`.
    """
    table = pq.read_table(path)
    for column in schema:
        if column.name not in table.column_names:
            table = table.append_column(column, pa.nulls(table.num_rows, column.type))
    table = table.select(schema.names)
    for name in {"sample", "versus_sample"} & {*schema.names}:
        samples = table[name].cast(pa.string()).fill_null("volume")
        table = table.set_column(schema.get_field_index(name), name, samples)
    return table.cast(schema)
