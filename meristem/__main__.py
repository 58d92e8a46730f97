"""`python -m meristem VERB ...`: the same as the `meristem` command."""
import sys

from meristem.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
