"""Commands, arguments and exit codes."""

from imagebind_jax.cli.commands import main as main
