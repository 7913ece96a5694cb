"""Evaluation of features: probes compared with the untrained encoder, with confidence intervals."""
