"""Learn: the one trainer, its optimizers, checkpoints and hooks; `run.pretrain` executes a recipe's `Run`."""
