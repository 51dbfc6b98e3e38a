"""Everything that a config can name as a source of records."""

from imagebind_jax.inputs.sources.array_records import ArrayRecords, verify_folder
from imagebind_jax.inputs.sources.cached import CachedSource, write_records
from imagebind_jax.inputs.sources.manifest import Manifest
from imagebind_jax.inputs.sources.prepared import Prepared
from imagebind_jax.inputs.sources.record import Record, Source
from imagebind_jax.inputs.sources.tar import TarShards
from imagebind_jax.inputs.sources.tfds import Tfds
from imagebind_jax.storage.cache_dir import CACHE_VARIABLE, cache_folder

__all__ = [
    "CACHE_VARIABLE",
    "ArrayRecords",
    "CachedSource",
    "Manifest",
    "Prepared",
    "Record",
    "Source",
    "TarShards",
    "Tfds",
    "cache_folder",
    "verify_folder",
    "write_records",
]
