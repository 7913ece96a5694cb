"""`fmct study`: does pretraining help? Synthetic heads, pretraining, probes, fine-tuning, table and plots."""
