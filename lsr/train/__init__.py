"""Training: losses, regularizers, data, and the loop."""
