"""Attention mechanisms made of the core's kernels, one module a family; importing a module registers its types."""
