"""Relevance maps: the origin of a classifier's score, or of an encoder's token, in a scan."""
