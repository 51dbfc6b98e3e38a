import functools
import io
import struct
import sys
import time
import tracemalloc

import av
import numpy as np
import pytest
import soundfile
from samples import png, wav

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders import audio_files, containers
from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.inputs.transforms import audio

SECONDS = 3


@functools.cache
def sound(rate):
    """Two rising tones with soft clicks: no second of it is like another."""
    times = np.arange(SECONDS * rate) / rate
    waveform = [0.4 * np.sin(2 * np.pi * (300 + 400 * times) * times),
                0.3 * np.sin(2 * np.pi * (2000 - 500 * times) * times)]  # fmt: skip
    waveform = np.array(waveform, np.float32)
    waveform[:, rate // 7 :: rate // 3] += 0.2
    return waveform


# ---- files that libsndfile reads


@functools.cache
def file(kind, subtype=None, rate=44_100):
    encoded = io.BytesIO()
    soundfile.write(encoded, sound(rate).T, rate, format=kind, subtype=subtype)
    return encoded.getvalue()


FILES = {
    "u8": ("WAV", "PCM_U8", 44_100, 1e-2),
    "16": ("WAV", "PCM_16", 44_100, 1e-4),
    "24": ("WAV", "PCM_24", 44_100, 1e-6),
    "32": ("WAV", "PCM_32", 44_100, 1e-7),
    "float": ("WAV", "FLOAT", 44_100, 0),
    "A-law": ("WAV", "ALAW", 44_100, 2e-2),
    "mu-law": ("WAV", "ULAW", 44_100, 2e-2),
    "extensible": ("WAVEX", "PCM_24", 44_100, 1e-6),
    "RF64": ("RF64", "PCM_16", 44_100, 1e-4),
    "AIFF": ("AIFF", "PCM_16", 44_100, 1e-4),
    "flac": ("FLAC", "PCM_16", 44_100, 1e-4),
    "flac 24": ("FLAC", "PCM_24", 44_100, 1e-6),
    "vorbis": ("OGG", "VORBIS", 44_100, None),
    "opus": ("OGG", "OPUS", 48_000, None),
    "mp3": ("MP3", None, 44_100, None),
}


def assert_in_place(waveform, expected, loss=0.06):
    """What a lossy codec leaves: like the original, and least unlike it where it should lie."""
    inside = slice(5000, min(len(waveform[0]), len(expected[0])) - 5000)
    errors = [np.sqrt(np.square(np.roll(waveform, lag)[:, inside] - expected[:, inside]).mean())
              for lag in (-2, -1, 0, 1, 2)]  # fmt: skip
    assert np.argmin(errors) == 2 and errors[2] < loss, errors


@pytest.mark.parametrize("name", FILES)
def test_every_format_holds_what_was_written(name):
    kind, subtype, rate, tolerance = FILES[name]
    waveform, found = audio_files.read_audio(file(kind, subtype, rate))
    assert (found, waveform.dtype) == (rate, np.float32)
    assert waveform.shape == sound(rate).shape
    if tolerance is None:
        assert_in_place(waveform, sound(rate))
    else:
        np.testing.assert_allclose(waveform, sound(rate), atol=tolerance)
    assert audio_files.duration(file(kind, subtype, rate)) == SECONDS


@pytest.mark.parametrize("name", FILES)
def test_a_part_is_a_slice_of_the_whole(name, tmp_path):
    kind, subtype, rate, _ = FILES[name]
    whole, _ = audio_files.read_audio(file(kind, subtype, rate))
    (tmp_path / "x").write_bytes(file(kind, subtype, rate))
    for source, start, seconds in [(file(kind, subtype, rate), 0.7, 0.3), (tmp_path / "x", 2.1, 9)]:
        part, _ = audio_files.read_audio(source, start, seconds)
        expected = whole[:, round(start * rate) : round((start + seconds) * rate)]
        np.testing.assert_allclose(part, expected, atol=1e-6 if name == "opus" else 0)
        assert part.shape == expected.shape


def test_a_flac_written_to_a_pipe_says_no_length_and_is_read_all_the_same():
    unknown = bytearray(file("FLAC"))
    unknown[21] &= 0xF0  # STREAMINFO's 36 bits of total samples
    unknown[22:26] = bytes(4)
    whole, rate = audio_files.read_audio(bytes(unknown))
    np.testing.assert_array_equal(whole, audio_files.read_audio(file("FLAC"))[0])
    part, _ = audio_files.read_audio(bytes(unknown), 2.0, 0.5)
    np.testing.assert_array_equal(part, whole[:, 2 * rate : 5 * rate // 2])


# ---- sound tracks


@functools.cache
def track(kind, codec, rate=44_100, video=False, delay=0, noise=0.0, **options):
    """Sound, and a second of pictures if asked for, as a container."""
    encoded = io.BytesIO()
    # Without noise substitution, whose noise differs from decoding to decoding.
    settings = {"aac": {"aac_pns": "0"}, "libopus": {"b": "128k"}}.get(codec, {})
    settings = {"b": "64k"} if noise else settings
    hiss = noise * np.random.default_rng(0).standard_normal((2, SECONDS * rate))
    waveform = (sound(rate) + hiss).astype(np.float32)
    with av.open(encoded, "w", format=kind, options=options) as container:
        stream = container.add_stream(codec, rate=rate, layout="stereo", options=settings)
        if video:
            pictures = container.add_stream("libx264", rate=25)
            pictures.width = pictures.height = 32
            pictures.pix_fmt = "yuv420p"
            for at in range(25 * SECONDS):
                picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), at, np.uint8), "rgb24")
                picture.pts = at
                container.mux(pictures.encode(picture))
            container.mux(pictures.encode(None))
        for at in range(0, SECONDS * rate, 1024):
            samples = np.ascontiguousarray(waveform[:, at : at + 1024])
            frame = av.AudioFrame.from_ndarray(samples, "fltp", "stereo")
            frame.sample_rate, frame.pts = rate, at + delay
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return encoded.getvalue()


@functools.cache
def webm_vorbis():
    encoded = io.BytesIO()
    source = av.open(io.BytesIO(file("OGG")))
    with av.open(encoded, "w", format="webm") as container:
        stream = container.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    return encoded.getvalue()


FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "300000"}
TRACKS = {  # how it is made; how many samples of run-up the file does not tell of; tolerance
    "m4a": (lambda: track("mp4", "aac"), 0, None),
    "mp4": (lambda: track("mp4", "aac", 48_000, video=True), 0, None),
    "mp4 in fragments": (lambda: track("mp4", "aac", **FRAGMENTS), 1024, None),
    "mp4 alac": (lambda: track("mp4", "alac"), 0, 1e-4),
    "mp4 mp3": (lambda: track("mp4", "libmp3lame"), 0, None),
    "mp4 opus": (lambda: track("mp4", "libopus", 48_000), 0, None),
    "mov": (lambda: track("mov", "pcm_s24le", 48_000, video=True), 0, 1e-6),
    "mkv": (lambda: track("matroska", "aac", video=True), 0, None),
    "mkv flac": (lambda: track("matroska", "flac"), 0, 1e-4),
    "mkv pcm": (lambda: track("matroska", "pcm_u8"), 0, 1e-2),
    "mkv mp3": (lambda: track("matroska", "libmp3lame"), 0, None),
    "webm opus": (lambda: track("webm", "libopus", 48_000), 0, None),
    "webm vorbis": (webm_vorbis, 132, None),  # FFmpeg's copy says that the sound begins at 3 ms
    "avi": (lambda: track("avi", "libmp3lame"), 1105, None),
    "adts": (lambda: track("adts", "aac"), 1024, None),
}


@pytest.mark.parametrize("name", TRACKS)
def test_a_sound_track_lies_where_the_file_says(name):
    make, run_up, tolerance = TRACKS[name]
    waveform, rate = audio_files.read_audio(make())
    assert abs(audio_files.duration(make()) - SECONDS - run_up / rate) < 0.05
    assert waveform.shape[1] >= run_up + SECONDS * rate - 2
    if tolerance is None:
        assert_in_place(waveform[:, run_up:], sound(rate))
    else:
        np.testing.assert_allclose(waveform[:, : SECONDS * rate], sound(rate), atol=tolerance)


@pytest.mark.parametrize("name", TRACKS)
def test_after_a_seek_every_sample_is_what_it_is_in_the_whole(name):
    encoded = TRACKS[name][0]()
    whole, rate = audio_files.read_audio(encoded)
    for start, seconds in [(0.0, 0.4), (0.51, 0.2), (1.2345, 0.1), (2.2, 0.5), (2.9, 9.0)]:
        part, _ = audio_files.read_audio(encoded, start, seconds)
        expected = whole[:, round(start * rate) : round(start * rate) + round(seconds * rate)]
        assert part.shape == expected.shape
        np.testing.assert_allclose(part, expected, atol=1e-6 if "opus" in name else 0)


@pytest.mark.parametrize("kind", ["mp4", "matroska", "adts"])
def test_a_part_is_the_same_whatever_was_read_before(kind):
    """Also where the decoder makes up noise, which depends on all that it has decoded."""
    encoded = track(kind, "aac", 48_000, noise=0.2)
    parts = [(72_000, 96_000), (100, 4_000), (120_000, 140_000), (72_000, 96_000)]
    with audio_files.open_audio(encoded) as recording:
        together = [recording.read(*part) for part in parts]
    for part, waveform in zip(parts, together):
        with audio_files.open_audio(encoded) as recording:
            np.testing.assert_array_equal(recording.read(*part), waveform)


@pytest.mark.parametrize("cut", [500, 1088, 30_000])
def test_an_edit_list_that_cuts_the_beginning_holds(cut):
    encoded = bytearray(track("mp4", "aac"))
    whole, rate = audio_files.read_audio(bytes(encoded))
    at = encoded.index(b"elst") + 16
    (media_time,) = struct.unpack(">i", encoded[at : at + 4])
    assert media_time == 1024  # AAC's run-up
    encoded[at : at + 4] = struct.pack(">i", media_time + cut)
    rest, _ = audio_files.read_audio(bytes(encoded))
    np.testing.assert_array_equal(rest[:, : whole.shape[1] - cut], whole[:, cut:])
    part, _ = audio_files.read_audio(bytes(encoded), 1.5, 0.2)
    first = round(1.5 * rate)
    np.testing.assert_array_equal(part, rest[:, first : first + part.shape[1]])


@pytest.mark.parametrize("kind", ["mp4", "matroska"])
def test_sound_that_begins_after_the_pictures_begins_after_silence(kind):
    late, rate = audio_files.read_audio(track(kind, "aac", video=True, delay=22_050))
    silent = 22_050 - 1024  # the run-up of the encoder
    assert np.abs(late[:, : silent - rate // 500]).max() == 0
    lags = [np.abs(late[:, 22_050 + lag :][:, 9000:20_000] - sound(rate)[:, 9000:20_000]).mean()
            for lag in range(-100, 100)]  # fmt: skip
    assert abs(np.argmin(lags) - 100) < rate / 1000  # both write this delay in milliseconds


def test_a_container_of_pictures_alone_has_no_sound():
    encoded = io.BytesIO()
    with av.open(encoded, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
        container.mux(stream.encode(frame) + stream.encode(None))
    for source in (encoded.getvalue(), png(np.zeros((4, 4), np.uint8))):
        with pytest.raises(MediaError, match="no sound"):
            audio_files.read_audio(source)


@pytest.mark.parametrize(
    "text",
    [
        b"ffconcat version 1.0\nfile other.mp4\n",
        b"#EXTM3U\n#EXTINF:9,\nother.mp4\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 96\n",
    ],
)
def test_a_playlist_is_not_followed(text, tmp_path):
    (tmp_path / "other.mp4").write_bytes(track("mp4", "aac"))
    (tmp_path / "list.mp4").write_bytes(text)
    for use in (audio_files.duration, lambda path: containers.open_container(path).__enter__()):
        with pytest.raises(MediaError):
            use(tmp_path / "list.mp4")


def test_decoders_start_no_threads_and_the_container_is_closed():
    with containers.open_container(track("mp4", "aac", 48_000, video=True)) as container:
        for stream in container.streams:
            next(container.decode(stream))
            assert stream.codec_context.thread_count == 1
    with pytest.raises(AssertionError, match="not open"):
        container.seek(0)


def test_a_title_may_hold_any_bytes():
    encoded = io.BytesIO()
    with av.open(encoded, "w", format="matroska") as container:
        container.metadata["title"] = "abcdefgh"
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame) + stream.encode(None))
    bad = encoded.getvalue().replace(b"abcdefgh", b"abc\xff\xfe\xffgh")
    assert audio_files.read_audio(bad)[0].shape == (1, 800)


def test_without_pyav_the_remedy_is_told(monkeypatch):
    encoded = track("mp4", "aac")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install 'imagebind-jax\[video\]'"):
        audio_files.duration(encoded)
    assert audio_files.duration(file("FLAC")) == SECONDS


# ---- files that lie


def lying_mp3():
    encoded = bytearray(file("MP3"))
    at = encoded.index(b"Xing") + 8
    encoded[at : at + 4] = struct.pack(">I", 2**31 - 1)  # frames: 650 days
    return bytes(encoded)


def lying_mp4(box, at, count):
    encoded = bytearray(track("mp4", "aac", **(FRAGMENTS if box == b"trun" else {})))
    at += encoded.index(box) + 4
    encoded[at : at + len(count)] = count
    return bytes(encoded)


MANY = struct.pack(">I", 50_000_000)
LIES = {
    "an mp3 of years": lying_mp3,
    "more packets than bytes": lambda: lying_mp4(b"stsz", 4, struct.pack(">I", 1) + MANY),
    "the same in a fragment": lambda: lying_mp4(b"trun", 1, b"\0\0\1" + MANY),
    "a compressed header": lambda: lying_mp4(b"udta", -4, b"cmov"),
    "an mp4 of months": lambda: lying_mp4(b"stts", 12, b"\x7f\xff\xff\xff"),
    "a wav of 4 GB": lambda: wav(sound(44_100), 44_100)[:60],
}


@pytest.mark.parametrize("name", LIES)
def test_a_file_that_lies_takes_no_memory(name):
    encoded = LIES[name]()
    tracemalloc.start()
    refused = 0
    for use in (
        audio_files.duration,
        audio_files.read_audio,
        lambda source: audio.LogMel()({"audio": source}, None),
        lambda source: audio.LogMelClips(count=None)({"audio": source}, None),
    ):
        try:
            use(encoded)
        except MediaError as error:
            refused += 1
            assert len(str(error).splitlines()) == 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused >= 2
    assert peak < 64 << 20


DAMAGED = {
    **{name: lambda row=FILES[name]: file(*row[:3]) for name in ("16", "AIFF", "flac", "vorbis")},
    **{name: lambda row=FILES[name]: file(*row[:3]) for name in ("opus", "mp3", "A-law")},
    **{name: TRACKS[name][0] for name in ("m4a", "mp4", "mp4 in fragments", "mov", "mkv", "avi")},
    **{name: TRACKS[name][0] for name in ("webm opus", "webm vorbis", "adts")},
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("attempts", [5, pytest.param(50, marks=pytest.mark.fuzz)])
def test_a_damaged_file_is_a_media_error_or_a_recording(name, attempts, rotating_seed):
    """Bytes changed, mostly in the header, or the end cut off."""
    good, rng = DAMAGED[name](), np.random.default_rng(rotating_seed)
    for attempt in range(attempts):
        bad = bytearray(good)
        if attempt % 5 == 4:
            del bad[int(rng.integers(len(bad))) :]
        for _ in range(int(rng.integers(1, 10))):
            reach = len(bad) if rng.random() < 0.3 else min(len(bad), 2000)
            if reach:
                bad[int(rng.integers(reach))] = int(rng.integers(256))
        begun = time.monotonic()
        try:
            clip = audio.LogMel()({"audio": bytes(bad)}, None)
            assert clip.shape == (128, 204, 1) and np.isfinite(clip).all()
        except MediaError as error:
            assert len(str(error).splitlines()) == 1
        assert time.monotonic() - begun < 2
