"""`fmct doctor`: what is wrong with an installation, a site, a dataset or a run, and how to mend it."""
