"""From a tree of files to the catalog: what is found, in whatever order and however often broken off."""
