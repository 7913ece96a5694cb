"""Sphinx's configuration of the Python reference: sphinx-build docs/reference OUT."""

project = "fmct-hpc"
extensions = ["sphinx.ext.autodoc"]
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
html_theme = "alabaster"
# Private names of signatures, which have no page.
nitpicky = False
