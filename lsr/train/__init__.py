"""Training: data, losses, regularizers, mining of hard negatives."""
