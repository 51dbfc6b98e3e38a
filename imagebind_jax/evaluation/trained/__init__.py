"""Baselines that are trained on labels, and what is trained on top of embeddings."""
