"""What a classifier's scores are worth: areas, intervals, paired tests, calibration, operating points."""
