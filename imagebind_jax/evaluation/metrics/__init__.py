"""Numbers that measure embeddings, with their intervals."""
