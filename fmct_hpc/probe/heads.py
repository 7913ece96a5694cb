"""The two cheap classifiers on frozen features: logistic regression and nearest neighbours."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fmct_hpc.config import ProbeConfig

Scores = NDArray[np.float64]
Classifier = Callable[
    [NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64], NDArray[np.float32]], Scores
]

VOTE_TEMPERATURE = 0.07
"""Weight of a neighbour is exp(similarity / 0.07) (Wu et al. 2018, as in DINO's own kNN)."""


def linear(config: ProbeConfig) -> Classifier:
    """Logistic regression on standardised features, its L2 strength chosen by inner patient-level folds."""

    def fit_and_score(
        features: NDArray[np.float32],
        labels: NDArray[np.bool_],
        patients: NDArray[np.int64],
        unseen: NDArray[np.float32],
    ) -> Scores:
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, class_weight="balanced"))
        grid = {"logisticregression__C": list(config.l2_grid)}
        inner = StratifiedGroupKFold(3, shuffle=True, random_state=config.seed)
        search = GridSearchCV(model, grid, scoring="roc_auc", cv=inner)
        search.fit(features, labels, groups=patients)
        return np.asarray(search.decision_function(unseen), dtype=np.float64)

    return fit_and_score


def nearest_neighbours(config: ProbeConfig) -> Classifier:
    """Weighted vote of the `neighbours` nearest training volumes by cosine similarity."""

    def vote_weight(distance: NDArray[np.float64]) -> NDArray[np.float64]:
        nearest = distance.min(axis=1, keepdims=True)  # a common factor, against underflow
        return np.asarray(np.exp((nearest - distance) / VOTE_TEMPERATURE))

    def fit_and_score(
        features: NDArray[np.float32],
        labels: NDArray[np.bool_],
        patients: NDArray[np.int64],
        unseen: NDArray[np.float32],
    ) -> Scores:
        count = min(config.neighbours, len(labels))
        model = KNeighborsClassifier(count, metric="cosine", weights=vote_weight)
        model.fit(features, labels)
        return np.asarray(model.predict_proba(unseen)[:, 1], dtype=np.float64)

    return fit_and_score
