"""Export of classifiers of labels, and their predictions for new scans."""
