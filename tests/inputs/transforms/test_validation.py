import inspect
import re

import numpy as np
import pytest

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.inputs.transforms import audio, depth, imu, text

WHOLE = (0, -1, 2.5, "3", None, True, [3])
POSITIVE = (0.0, -1.0, np.inf, np.nan, "5", None, True, [5.0])
STATISTICS = {"mean": 1.0, "std": 1.0}
WRONG = (
    (imu.ImuWindow, "steps", WHOLE),
    (imu.ImuWindow, "seconds", POSITIVE),
    (imu.ImuWindow, "max_gap", POSITIVE),
    (audio.LogMel, "seconds", POSITIVE),
    (audio.LogMel, "frames", WHOLE),
    (audio.LogMel, "mask_bands", (-1, 129, 2.5, "3", None, True)),
    (audio.LogMelClips, "seconds", POSITIVE),
    (audio.LogMelClips, "frames", WHOLE),
    (audio.LogMelClips, "count", (0, -1, 2.5, "3", True, audio.MAX_CLIPS + 1)),
    (depth.Disparity, "size", WHOLE),
    (depth.Disparity, "max_depth", (0.0, -1.0, np.inf, np.nan, "5", True)),
    (depth.Disparity, "mean", (np.inf, np.nan, "5", None, True)),
    (depth.Disparity, "std", POSITIVE),
    (depth.Disparity, "reading", ("sun", None, 3)),
    (depth.Disparity, "normalisation", ("clip", None, 3)),
    (text.Tokenize, "context_length", (*WHOLE, 1)),
)


def make(transform, **settings):
    """As users do: without the tests' checks of types."""
    made = object.__new__(transform)
    inspect.unwrap(transform.__init__)(made, **settings)
    return made


@pytest.mark.parametrize(
    ("transform", "name", "wrong"), WRONG, ids=lambda x: getattr(x, "__name__", None)
)
def test_settings_that_cannot_work_are_refused_when_a_transform_is_made(transform, name, wrong):
    others = STATISTICS if name in STATISTICS else {}
    for value in wrong:
        said = rf"{name}.*{re.escape(str(value))}"
        with pytest.raises(UserError, match=said) as caught:
            make(transform, **(others | {name: value}))
        assert not isinstance(caught.value, MediaError) and "\n" not in str(caught.value)


def test_numbers_of_numpy_are_numbers():
    assert make(imu.ImuWindow, seconds=np.float32(5), steps=np.int64(7), max_gap=1).steps == 7
    assert make(depth.Disparity, mean=np.float64(1.5), std=2, max_depth=8).max_depth == 8
