"""The figures of results in words, as report pages say them; tables on disk have their keys."""

FIGURES = {
    "auc": "AUC",
    "auc_macro": "macro AUC",
    "balanced_accuracy": "balanced accuracy",
    "log_loss": "log loss",
    "brier": "Brier score",
    "ece": "calibration error",
    "ece_classwise": "calibration error by class",
    "kappa_quadratic": "quadratic kappa",
    "rps": "ranked probability score",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R²",
    "spearman": "Spearman correlation",
    "calibration_slope": "calibration slope (ideally 1)",
    "calibration_intercept": "calibration intercept (ideally 0)",
    "c_index": "concordance index",
    **dict.fromkeys(("auc_at_25", "auc_at_50", "auc_at_75"), "time-dependent AUC"),
    "ibs": "integrated Brier score",
    "ibs_skill": "integrated Brier skill",
}
"""By key (docs/probes.md, "Kinds of label"); a key that is not here stands for itself."""


def figure_name(key: str, at: float | None = None) -> str:
    """A figure in words; at: the time that it is taken at."""
    return FIGURES.get(key, key) + time(at)


def time(at: float | None) -> str:
    """What follows a figure that is taken at a time."""
    return "" if at is None else f" (t = {at:g})"
