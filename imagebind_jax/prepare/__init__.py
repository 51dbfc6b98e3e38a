"""Turn official downloads into records."""
