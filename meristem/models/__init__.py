"""Families wire: one file a family, with Config, Block, Model, SIZES (with sources), HF and HF_CONFIG (name maps)."""
