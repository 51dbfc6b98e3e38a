"""Save, verify and restore a step of training."""
