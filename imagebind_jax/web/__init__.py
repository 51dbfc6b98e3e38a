"""A local web page (`imagebind-jax page`): compare files of any modality, and search a store by them."""

from imagebind_jax.web.server import serve_forever

__all__ = ["serve_forever"]
