"""What a running process needs: console, metrics log, workers, compilation cache."""
