"""Classifiers of labels, kept as folders, and what they say of new scans."""
