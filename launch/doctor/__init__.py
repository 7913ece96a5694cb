"""`fmct doctor`: checks of an installation, a site file, a dataset or a run, with suggested fixes."""
