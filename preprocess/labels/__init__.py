"""Labels of studies: from a hospital's table or a public dataset to keyed Parquet."""

from preprocess.labels.keyed import LabelFormat, key_labels

__all__ = ["LabelFormat", "key_labels"]
