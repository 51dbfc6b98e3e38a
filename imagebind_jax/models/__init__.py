"""Flax modules: encoders, layers, attention."""
