"""Other groups' encoders, each from its published files or drawn anew, as encoders of a sweep."""
