"""From a tree of files to the catalog, independent of file order and interruptions."""
