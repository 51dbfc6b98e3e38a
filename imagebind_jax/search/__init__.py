"""An embedding store, exact and approximate search."""
