"""Families of attention beyond dot products, one file each; their functions are re-exported by `ruvector`."""
