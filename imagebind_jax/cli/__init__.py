"""Commands, arguments and exit codes."""

from imagebind_jax.cli.main import main as main
