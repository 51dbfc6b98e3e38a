"""What benchmarks/gpu.py divides by."""

import importlib.util
import pathlib

import imagebind_jax as ib
from imagebind_jax.plan import flops


def test_operations_are_counted_as_plans_count_them():
    path = pathlib.Path(__file__).parents[2] / "benchmarks" / "gpu.py"
    spec = importlib.util.spec_from_file_location("gpu", path)
    gpu = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gpu)
    for config in (*ib.HUGE.encoders.values(), *ib.TINY.encoders.values()):
        assert gpu.flops(config, 1024) == flops.forward_flops(config, 1024)
    audio = ib.HUGE.encoders["audio"]  # its 85 million parameters for each of its 229 tokens, twice
    assert 1.0 < gpu.flops(audio, 1024) / (2 * 85e6 * 229) < 1.1
