"""Oracles that need pandas, in the folder that launch/environment.sh --test creates (tests/oracles.txt)."""

import sys
from pathlib import Path

sys.path.append(str(Path(sys.prefix) / "oracles"))

from lifelines import CoxPHFitter, KaplanMeierFitter
from lifelines.utils import concordance_index
from pandas import DataFrame
from statsmodels.miscmodels.ordinal_model import OrderedModel

sys.path.pop()  # not for processes that tests start

__all__ = ["CoxPHFitter", "DataFrame", "KaplanMeierFitter", "OrderedModel", "concordance_index"]
