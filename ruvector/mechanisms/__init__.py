"""Attention types beyond the dense core, one module for each family."""
