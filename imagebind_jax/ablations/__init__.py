"""The paper's ablations, and more, on the built-in world."""
