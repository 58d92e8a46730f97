"""One task a file, found by name (`core.registry`); each module exposes `TASK`, an object that satisfies `evals.base.Task`."""
