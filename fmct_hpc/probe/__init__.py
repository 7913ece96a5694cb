"""What the features are worth: probes against the untrained encoder, with intervals."""
