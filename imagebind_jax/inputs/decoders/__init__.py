"""Decode untrusted files: images, sounds, videos, depth maps, arrays."""
