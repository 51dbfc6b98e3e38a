"""A dataset by its name, and its rows in a form to compare."""

import importlib
import pathlib


def dataset(name):
    return importlib.import_module(f"imagebind_jax.data.{name}.builder").DATASET


def rows(listing, split):
    """The rows, files by their names only."""
    return [
        {
            key: value.name if isinstance(value, pathlib.Path) else value
            for key, value in row.items()
        }
        for row in listing.splits[split]
    ]
