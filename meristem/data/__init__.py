"""Data: documents as token shards on disk, and batches that are a pure function of (shards, seed, step)."""
