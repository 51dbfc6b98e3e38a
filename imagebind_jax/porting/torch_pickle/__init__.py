"""Read PyTorch checkpoints without running any code in them."""
