"""Names and layouts of parameters in other projects' checkpoints."""
