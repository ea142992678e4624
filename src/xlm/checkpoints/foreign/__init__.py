"""Readers of weights that other programs wrote: each gives published names and arrays, and runs nothing."""
