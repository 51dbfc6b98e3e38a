"""Everything that a config can name as a source of records."""

from imagebind_jax.inputs.sources.array_records import ArrayRecords, verify
from imagebind_jax.inputs.sources.manifest import Manifest
from imagebind_jax.inputs.sources.prepared import Prepared
from imagebind_jax.inputs.sources.records import CACHE_VARIABLE, Record, Source, cache_folder
from imagebind_jax.inputs.sources.tar import Tar
from imagebind_jax.inputs.sources.tfds import Tfds
from imagebind_jax.inputs.sources.writing import Cached, write_records

__all__ = [
    "CACHE_VARIABLE",
    "ArrayRecords",
    "Cached",
    "Manifest",
    "Prepared",
    "Record",
    "Source",
    "Tar",
    "Tfds",
    "cache_folder",
    "verify",
    "write_records",
]
