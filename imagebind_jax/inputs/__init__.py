"""The host side: bytes of media in, one model input out, with numpy and never jax."""
