"""Sample from and score with a trained model: one file a way of doing it; families are met through `caches` and `forward` only."""
