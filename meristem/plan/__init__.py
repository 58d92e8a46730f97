"""Decide before spending: what a model costs (cost), what loss to expect (scaling), what to train (plan), energy
(energy)."""
