"""Weights of PyTorch models in and out: files read without torch, and the tables that rename them."""
