"""Evaluations: plain numpy functions of embeddings and labels; none knows of a model."""
