"""`python -m imagebind_jax.cli`: the command where no script is installed."""

import sys

from imagebind_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
