"""Learn: the one trainer, its optimizers, checkpoints and hooks, and `run.pretrain`, which executes a recipe's `Run`."""
