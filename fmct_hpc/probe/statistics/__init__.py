"""Statistics of a classifier's scores: areas, intervals, paired tests, calibration, operating points."""
