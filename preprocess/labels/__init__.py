"""Labels of studies: from a table of the hospital's, or of a public dataset, to keyed Parquet."""

from preprocess.labels.keyed import LabelFormat, key_labels

__all__ = ["LabelFormat", "key_labels"]
