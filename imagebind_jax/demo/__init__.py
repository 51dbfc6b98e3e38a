"""The demo: a small run on the built-in world, and its report."""
