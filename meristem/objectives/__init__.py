"""What is minimised: one file an objective, each holding an `Objective` class that is named like its file."""
