import io
import pickle
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import strategies as st
from properties import of_any
from samples import GOLDEN, tone, wav

from imagebind_jax.inputs.decoders import audio_files
from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.inputs.decoders.resampling import resample
from imagebind_jax.inputs.transforms import audio, log_mel
from imagebind_jax.inputs.transforms.augment import SharedAugmentation

PAD = np.float32(4.268 / 9.138)  # 0.467


def audio_clips(source):
    return audio.LogMelClips()({"audio": source}, None)


GOLDEN_CLIPS = np.load(GOLDEN / "audio_logmel.npz")


def assert_golden(clip, name, index):
    difference = np.abs(clip[..., 0] - GOLDEN_CLIPS[name][index]) * audio.STD  # in log-mel units
    assert clip.shape == (128, 204, 1) and clip.dtype == np.float32
    assert difference.mean() < 1e-4
    assert difference.max() < 2e-2
    if "noise" in name:  # 8 kHz: the upper half of the bands is empty, at the mercy of rounding
        assert difference[:64].max() < 1e-3


@pytest.mark.parametrize("name", GOLDEN_CLIPS.files)
def test_first_clip_equals_the_reference(name):
    assert_golden(audio_clips(GOLDEN / "media" / name)[0], name, 0)


@pytest.mark.parametrize("name", GOLDEN_CLIPS.files)
def test_later_clips_equal_the_reference_that_cuts_its_own_way(name):
    # The golden values were made with a pytorchvideo that divides by the number of clips, not by
    # one less, so that its clips overlap; and each clip's mean is removed in place, from the next
    # one's samples too.
    waveform, rate = audio_files.read_audio(GOLDEN / "media" / name)
    waveform = resample(waveform, rate).copy()
    for index in range(3):
        start = Fraction(max(waveform.shape[1] / 16_000 - 2, 0)) * index / 3
        clip = waveform[:, int(start * 16_000) : int((start + 2) * 16_000)]
        whole = waveform.copy()
        clip -= clip.mean()
        assert_golden(audio.normalized_log_mel(clip), name, index)
        if index == 0:  # nothing was removed from these samples before
            read = audio.read_clip(GOLDEN / "media" / name, start)
            np.testing.assert_allclose(read, whole[:, : read.shape[1]], atol=1e-6)


def test_our_clips_are_those_of_the_reference_at_our_starts():
    # 7 s: ours start at 0, 2.5 and 5 s, the golden ones at 0, 1.67 and 3.33 s.
    name = "chirp_16k_mono_7s.wav"
    clips = audio_clips(GOLDEN / "media" / name)
    for clip, start in zip(clips, audio.clip_starts(7.0, 2.0, 3)):
        np.testing.assert_array_equal(
            clip, audio.normalized_log_mel(audio.read_clip(GOLDEN / "media" / name, start))
        )
    assert np.abs(clips[1, ..., 0] - GOLDEN_CLIPS[name][1]).mean() > 0.05


def test_a_tone_lights_its_band_and_no_other():
    mel = audio.log_mel(tone(1000, 16_000, 2))
    band = _band(1000)
    assert mel.shape == (128, 198)
    assert (mel.argmax(axis=0) == band).all()
    assert mel[band].min() - mel[band + 20].max() > 10


def _mel(hertz):
    return 1127 * np.log1p(hertz / 700)


def _band(hertz):
    return round((_mel(hertz) - _mel(20)) / (_mel(8000) - _mel(20)) * 129) - 1


def test_log_mel_equals_its_definition_in_float64():
    waveform = np.random.default_rng(0).normal(0, 0.1, 4000)
    spectra = []
    for start in range(0, 4000 - 399, 160):
        window = waveform[start : start + 400] - waveform[start : start + 400].mean()
        window = window - 0.97 * np.concatenate([window[:1], window[:-1]])
        spectra.append(np.abs(np.fft.rfft(window * np.hanning(400), 512)) ** 2)
    edges = np.linspace(_mel(20), _mel(8000), 130)
    bank = np.stack([np.interp(_mel(np.arange(257) * 31.25), edges[i : i + 3], [0, 1, 0])
                     for i in range(128)])  # fmt: skip
    expected = np.log(np.maximum(bank @ np.transpose(spectra), 1.1920929e-07))
    np.testing.assert_allclose(audio.log_mel(waveform), expected, atol=1e-3)


def test_silence_is_the_floor_and_padding_is_not():
    clip = audio.normalized_log_mel(np.zeros((2, 32_000), np.float32))
    assert clip.shape == (128, 204, 1)
    np.testing.assert_allclose(clip[:, :198], (np.log(1.1920929e-07) + 4.268) / 9.138, atol=1e-6)
    np.testing.assert_allclose(clip[:, 198:], PAD, atol=1e-6)
    assert abs(PAD - 0.467) < 1e-3


@pytest.mark.parametrize(("n", "frames"), [(1, 1), (399, 1), (400, 1), (559, 1), (560, 2)])
def test_short_clips_are_padded_to_one_window(n, frames):
    waveform = np.random.default_rng(n).normal(size=(1, n)).astype(np.float32)
    assert audio.log_mel(waveform[0]).shape == (128, frames)
    clip = audio.normalized_log_mel(waveform)
    np.testing.assert_allclose(clip[:, frames:], PAD, atol=1e-6)
    assert np.isfinite(clip).all()


def test_first_channel_counts_and_the_mean_is_that_of_all():
    rng = np.random.default_rng(0)
    left, right = rng.normal(0, 0.1, (2, 32_000)).astype(np.float32)
    alone = audio.normalized_log_mel(left[None])
    for offset in (0, 0.5):
        both = np.stack([left, right]) + np.float32(offset)
        np.testing.assert_allclose(audio.normalized_log_mel(both), alone, atol=1e-3)
    assert np.abs(audio.normalized_log_mel(np.stack([right, left])) - alone).max() > 0.1


@of_any(
    st.sampled_from([8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 47_999]),
    st.floats(0, 0.9),
    st.floats(0.01, 0.5),
    examples=20,
)
def test_reading_a_clip_equals_slicing_the_resampled_recording(rate, start, seconds):
    waveform = np.random.default_rng(0).normal(0, 0.1, (2, rate)).astype(np.float32)
    clip = audio.read_clip(wav(waveform, rate), start, seconds)
    whole = resample(waveform, rate)
    expected = whole[:, int(start * 16_000) : int((start + seconds) * 16_000)]
    np.testing.assert_allclose(clip, expected, atol=1e-6)


def test_clip_starts_span_the_recording():
    assert audio.clip_starts(6.0, 2.0, 3) == [0, 2, 4]
    assert audio.clip_starts(5.0, 2.0, 3) == [0, Fraction(3, 2), 3]
    assert audio.clip_starts(1.5, 2.0, 3) == [0, 0, 0]
    assert audio.clip_starts(9.0, 2.0, 1) == [0]


def test_the_papers_rule_takes_half_as_many_clips_as_seconds():
    assert audio.clip_starts(5.0, 2.0, None) == [0, Fraction(3, 2), 3]  # ESC-50: 3 clips
    assert audio.clip_starts(10.0, 2.0, None) == [0, 2, 4, 6, 8]
    assert audio.clip_starts(1.5, 2.0, None) == audio.clip_starts(2.0, 2.0, None) == [0]
    with pytest.raises(ValueError, match="1801 clips"):
        audio.clip_starts(3601.0, 2.0, None)


def test_clips_of_a_rising_scale():
    rising = np.concatenate([tone(hertz, 44_100, 2.0) for hertz in (500, 1000, 2000)])
    clips = audio_clips(wav(np.stack([rising, rising]), 44_100))
    assert clips.shape == (3, 128, 204, 1) and clips.dtype == np.float32
    loudest = clips[:, :, 50:150, 0].mean(axis=-1).argmax(axis=-1)
    assert loudest.tolist() == [_band(hertz) for hertz in (500, 1000, 2000)]


def scale(*hertz, rate=16_000, seconds=2.0):
    """One tone after another."""
    return np.concatenate([tone(h, rate, seconds) for h in hertz])


def test_transform_takes_the_centre_or_a_random_clip():
    record = {"audio": wav(scale(500, 1000, 2000)[None], 16_000)}
    clips = audio_clips(record["audio"])
    np.testing.assert_array_equal(audio.LogMel()(record, None), clips[1])
    draws = [audio.LogMel()(record, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert draws[0].shape == (128, 204, 1) and not np.array_equal(draws[0], draws[2])
    assert audio.LogMel(seconds=1.0, frames=100)(record, None).shape == (128, 100, 1)


def test_clips_of_a_record_are_no_random_ones():
    record = {"audio": wav(scale(500, 1000, 2000)[None], 16_000)}
    assert audio.LogMelClips(count=None, seconds=1.0, frames=98)(record, None).shape == (
        6,
        128,
        98,
        1,
    )
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(
        audio.LogMelClips()(record, rng), audio.LogMelClips()(record, None)
    )


def test_a_record_is_the_part_that_it_says():
    waveform = scale(500, 1000, 2000, 3000)[None]
    record = {"audio": wav(waveform, 16_000), "start": 2.0, "seconds": 4.0}
    alone = {"audio": wav(waveform[:, 32_000:96_000], 16_000)}
    for transform in (audio.LogMel(), audio.LogMelClips(), audio.LogMelClips(count=None)):
        np.testing.assert_array_equal(transform(record, None), transform(alone, None))
    for seed in range(3):
        rngs = np.random.default_rng(seed), np.random.default_rng(seed)
        np.testing.assert_allclose(
            audio.LogMel()(record, rngs[0]), audio.LogMel()(alone, rngs[1]), atol=1e-5
        )


def test_a_part_shorter_than_a_clip_is_padded_and_not_lengthened():
    waveform = scale(500, 1000)[None]
    record = {"audio": wav(waveform, 16_000), "start": 0.5, "seconds": 1.0}
    clip = audio.LogMel()(record, None)
    np.testing.assert_array_equal(clip, audio.normalized_log_mel(waveform[:, 8000:24_000]))
    np.testing.assert_allclose(clip[:, 98:], PAD, atol=1e-6)


@pytest.mark.parametrize(
    "part", [(-1.0, None), (4.0, None), (0.0, 0.0), (np.nan, 1.0), (1.0, np.nan)]
)
def test_a_part_that_is_not_there_is_a_media_error(part):
    record = {"audio": wav(scale(500, 1000)[None], 16_000), "start": part[0], "seconds": part[1]}
    for transform in (audio.LogMel(), audio.LogMelClips()):
        with pytest.raises(MediaError, match="outside|no samples"):
            transform(record, None)


def test_clips_of_one_view_lie_at_the_same_time():
    # A click each 10 ms later: where the clip starts is seen in it.
    waveform = np.zeros((1, 16_000 * 8), np.float32)
    waveform[0, 16_000 * 4] = 1.0
    record = {"audio": wav(waveform, 16_000), "view": SharedAugmentation(3)}
    start = SharedAugmentation(3).start(8.0, 4.0)
    clip = audio.LogMel(seconds=4.0, frames=398)(record, np.random.default_rng(0))
    heard = clip[..., 0].mean(axis=0).argmax()
    assert abs(heard - (4.0 - start) * 100) < 4
    other = audio.LogMel(seconds=4.0, frames=398)(record, np.random.default_rng(1))
    np.testing.assert_array_equal(clip, other)  # the view's start, not this modality's own


def test_masking_silences_neighbouring_bands_before_normalising():
    record = {"audio": wav(np.random.default_rng(0).normal(0, 0.1, (1, 32_000)), 16_000)}
    plain = audio.LogMel()(record, None)
    np.testing.assert_array_equal(audio.LogMel(mask_bands=12)(record, None), plain)
    clip = audio.LogMel(mask_bands=12)(
        {**record, "view": SharedAugmentation(0)}, np.random.default_rng(1)
    )
    masked = np.flatnonzero((clip != plain).any(axis=(1, 2)))
    assert 1 < len(masked) <= 12 and (np.diff(masked) == 1).all()
    np.testing.assert_allclose(clip[masked], PAD, atol=1e-6)


def test_masks_have_all_widths_and_places_alike():
    widths, lowest, rng = [], [], np.random.default_rng(0)
    for _ in range(3900):
        mel = np.ones((128, 1), np.float32)
        log_mel.mask_bands(mel, 12, rng)
        masked = np.flatnonzero(mel == 0)
        widths.append(len(masked))
        assert (np.diff(masked) == 1).all()
        lowest += masked[:1].tolist()
    counts = np.bincount(widths, minlength=13)
    assert len(counts) == 13 and (abs(counts - 300) < 90).all()  # 0 to 12, five deviations
    assert min(lowest) == 0 and max(lowest) > 120 and 57 < np.mean(lowest) < 64


def test_masks_reach_every_band_up_to_the_highest():
    reached, rng = np.zeros(128, bool), np.random.default_rng(0)
    for _ in range(1000):
        mel = np.ones((128, 1), np.float32)
        log_mel.mask_bands(mel, 12, rng)
        reached |= mel[:, 0] == 0
    assert reached.all()


def test_the_sound_of_a_video_is_heard_where_no_other_is_given():
    waveform = np.random.default_rng(0).normal(0, 0.1, (1, 96_000)).astype(np.float32)
    encoded = io.BytesIO()
    with av.open(encoded, "w", format="mp4") as container:
        stream = container.add_stream("alac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(waveform, "fltp", "mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame) + stream.encode(None))
    video = audio.LogMelClips()({"vision": encoded.getvalue()}, None)
    expected = audio.LogMelClips()({"audio": wav(waveform, 16_000)}, None)
    np.testing.assert_allclose(video, expected, atol=0.01)
    both = {"vision": encoded.getvalue(), "audio": wav(scale(3000)[None], 16_000)}
    np.testing.assert_array_equal(
        audio.LogMel()(both, None), audio.LogMel()({"audio": both["audio"]}, None)
    )


@pytest.mark.parametrize("record", [{}, {"vision": [b"", b""]}, {"vision": b"\xff\xd8\xff\xe0"}])
def test_a_record_without_sound_is_a_media_error(record):
    for transform in (audio.LogMel(), audio.LogMelClips()):
        with pytest.raises(MediaError, match="no sound|no field 'audio' or 'vision'"):
            transform(record, None)


@pytest.mark.parametrize("n", [1, 399, 400, 32_001])
def test_short_silent_and_shifted_recordings_give_the_same_clips(n):
    source = wav(np.full((2, n), 0.3, np.float32), 16_000)
    clips = audio_clips(source)
    silence = audio_clips(wav(np.zeros((2, n), np.float32), 16_000))
    assert clips.shape == (3, 128, 204, 1) and np.isfinite(clips).all()
    np.testing.assert_allclose(clips, silence, atol=1e-3)


def test_transforms_survive_pickling():
    for transform in (audio.LogMel(mask_bands=12), audio.LogMelClips(count=None)):
        assert pickle.loads(pickle.dumps(transform)) == transform


@pytest.mark.parametrize(
    "source",
    [
        b"",
        b"RIFF but nothing else",
        wav(np.zeros((1, 0), np.float32), 16_000),
        wav(np.zeros((1, 100), np.float32), 10),
        wav(np.full((1, 100), np.nan, np.float32), 16_000),
        wav(np.full((1, 100), 1e30, np.float32), 16_000),
    ],
)
def test_unusable_recordings_are_media_errors(source):
    with pytest.raises(MediaError):
        audio.LogMel()({"audio": source}, None)
