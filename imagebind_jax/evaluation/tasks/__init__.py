"""Evaluations of an embedder: zero-shot, retrieval, few-shot, detection and more."""
