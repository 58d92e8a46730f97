"""Sample from and score with a trained model, one file a way; families are met by `caches` and `forward` only."""
