"""Turn records of pairs into batches."""
