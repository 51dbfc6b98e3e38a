"""Estimate memory and speed of a training step on TPUs that are not at hand."""
