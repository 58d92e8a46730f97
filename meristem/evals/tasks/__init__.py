"""One task a file, found by name (`core.registry`); each exposes `TASK`, which satisfies `evals.base.Task`."""
