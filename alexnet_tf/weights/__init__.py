"""Weights that others published, and ours: read, checked and put into a network."""
