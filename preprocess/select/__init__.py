"""Which series of a study become volumes, by header facts alone."""
