"""What is minimised: one file an objective, each an `Objective` (`objectives.base`) class with the name of its file in camel case."""
