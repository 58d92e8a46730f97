"""The command line: one thin file a verb. Each parses, calls the stage and returns an `Answer`; no logic of its own."""
