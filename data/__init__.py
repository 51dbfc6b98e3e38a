"""Datasets: one folder each, installed as `imagebind_jax.data`."""
