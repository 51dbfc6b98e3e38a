"""Read and write files of parameters."""
