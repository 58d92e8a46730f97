"""Families wire: one file a family, each with Config, Block, Model, SIZES (with sources), HF and HF_CONFIG (name maps)."""
