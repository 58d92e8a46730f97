"""Layers compute: norms, positions, attention, feed-forward. Families in `models/` wire them.

Axes: B batch, T time (queries), S keys, D width, H heads, G key/value groups, K head size, V vocabulary.
"""
