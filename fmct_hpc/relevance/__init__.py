"""Maps of where in a scan a classifier's score, or an encoder's token, comes from."""
