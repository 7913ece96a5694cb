"""Display names of figures on report pages; tables on disk have the keys."""

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
"""By key (docs/probes.md, "Kinds of label"); other keys are displayed unchanged."""


def figure_name(key: str, at: float | None = None) -> str:
    """The display name of a figure; at: the time of evaluation, if it has one."""
    return FIGURES.get(key, key) + time(at)


def time(at: float | None) -> str:
    """The suffix of a figure that is evaluated at a time."""
    return "" if at is None else f" (t = {at:g})"
