"""Many processes act as one: start, agree, and notice that one is gone."""
