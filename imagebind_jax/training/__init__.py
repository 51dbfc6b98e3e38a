"""A training run: fit, loop, step, and what guards them."""
