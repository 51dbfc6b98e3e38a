import io
import itertools
import math
import os
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume
from hypothesis import strategies as st
from movies import HEIGHT, WIDTH, av, movie, numbers, remuxed
from PIL import Image
from properties import of_any
from samples import GOLDEN

import imagebind_jax as ib
from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders import containers, video
from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.inputs.transforms import vision
from imagebind_jax.inputs.transforms.augment import SharedAugmentation, SpatialAugmentation

LONG = movie(60)  # H.264 with frames out of order, five groups of 12


def stamps(source: bytes, start, seconds) -> list[int]:
    """The numbers of the frames in a part of a video at 30 Hz."""
    with video.open_video(source) as opened:
        frames = opened.frames(start, seconds)
        times = [(frame.stamp - opened._origin) * opened._unit for frame in frames]
    return [round(time * 30) for time in times]


@pytest.mark.parametrize(
    "codec, container",
    [
        ("libx264", "mp4"),
        ("libx264", "matroska"),
        ("libx265", "mp4"),
        ("libvpx", "webm"),
        ("libvpx-vp9", "webm"),
        ("libsvtav1", "mp4"),
        ("mpeg4", "avi"),
        ("mpeg4", "mov"),
    ],
)
def test_frames_are_those_of_decoding_it_all(codec, container):
    source = movie(40, codec, container)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER  # else later tests can wait for ever
    with av.open(io.BytesIO(source)) as file:
        every = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    with video.open_video(source) as opened:
        assert float(opened.duration) == pytest.approx(40 / 30, abs=2e-3)
        frames = opened.frames(0, 99)
        assert len(frames) == len(every) == 40
        chosen = [39, 0, 17, 17, 25]  # in any order, more than once
        pictures = opened.decode([frames[i] for i in chosen])
    for i, picture in zip(chosen, pictures):
        np.testing.assert_array_equal(np.asarray(picture), every[i])
    at = [0.0, 10 / 30, 0.35, 1.0, 39 / 30]
    np.testing.assert_allclose(numbers(video.frames_at(source, at)), [0, 10, 10, 30, 39], atol=1)


@of_any(st.floats(0, 1.9), st.floats(0.1, 3), examples=30)
def test_a_clip_has_the_frames_that_begin_in_it(start, seconds):
    # To a millisecond, which is what Matroska's time stamps are good for.
    places = [30 * (x - 0.001) for x in (start, start + seconds)]
    assume(all(abs(place - round(place)) > 1e-6 for place in places))  # where rounding decides
    first, last = map(math.ceil, places)
    assert stamps(LONG, start, seconds) == list(range(max(first, 0), min(last, 60)))


def test_clips_at_exact_thirds_of_seconds_are_not_a_frame_off():
    assert stamps(LONG, Fraction(1, 3), Fraction(1, 3)) == list(range(10, 20))
    assert stamps(remuxed(LONG, "matroska"), Fraction(1, 3), Fraction(1, 3)) == list(range(10, 20))


@of_any(st.floats(0, 1e5), st.floats(0.1, 100), st.integers(1, 20))
def test_clips_are_spread_from_the_first_second_to_the_last(length, seconds, count):
    starts = video.clip_starts(length, seconds, count)
    assert len(starts) == count and starts[0] == 0
    assert len({b - a for a, b in zip(starts, starts[1:])}) <= 1
    if count > 1:
        assert starts[-1] == max(Fraction(length) - Fraction(seconds), 0)


def test_clip_starts_of_the_golden_video():
    assert video.clip_starts(3, 2.0, 5) == [0, 0.25, 0.5, 0.75, 1]


def test_no_more_is_decoded_than_from_the_keyframe(monkeypatch):
    monkeypatch.setattr(video, "MAX_FRAMES", 12)  # a group of pictures
    assert numbers(video.frames_at(LONG, [0.0, 59 / 30, 1.0])) == [0, 59, 30]
    with video.open_video(LONG) as opened:
        assert numbers(opened.decode([opened.frames(0, 99)[58]])) == [58]
    with pytest.raises(MediaError, match="more than 12 frames without a keyframe"):
        video.frames_at(movie(60, gop=1000), [59 / 30])
    monkeypatch.setattr(video, "MAX_DECODED", 11 * WIDTH * HEIGHT)
    with pytest.raises(MediaError, match="more than 11 frames"):
        video.frames_at(LONG, [11 / 30])


@pytest.mark.parametrize("container", ["mp4", "matroska", "avi"])
def test_no_more_is_read_than_from_the_keyframe(container, monkeypatch):
    source = movie(60, container=container)
    monkeypatch.setattr(video, "MAX_PACKETS", 40)  # of 60
    assert [stamps(source, i / 30, 1 / 30) for i in range(44, 60)] == [[i] for i in range(44, 60)]
    assert video.duration(source) == pytest.approx(2, abs=2e-3)


def test_no_more_than_so_many_bytes_are_looked_through_for_what_is_missing(monkeypatch):
    monkeypatch.setattr(containers, "MAX_OPENING", 1 << 20)
    head = movie(12, "libvpx", "webm")[:300]  # it announces a video, of which nothing is there
    with pytest.raises(MediaError, match="too much to look through for one part"):
        video.duration(head + bytes(3 << 20))


def test_frames_without_their_keyframe_are_not_there():
    file = io.BytesIO()
    with av.open(io.BytesIO(LONG)) as old, av.open(file, "w", "matroska") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in itertools.islice(old.demux(video=0), 1, 60):
            packet.stream = stream
            new.mux(packet)
    with video.open_video(file.getvalue()) as opened:
        frames = opened.frames(0, 9)
        assert len(frames) == 48 and numbers(opened.decode(frames[:1])) == [12]


def test_large_frames_are_refused_before_decoding(monkeypatch):
    monkeypatch.setattr(video, "MAX_PIXELS", WIDTH * HEIGHT - 1)
    with pytest.raises(MediaError, match=f"frames of {WIDTH} x {HEIGHT} pixels"):
        video.duration(LONG)


def test_frames_that_become_large_on_the_way_are_refused(monkeypatch):
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        stream = output.add_stream("mjpeg", rate=30)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuvj420p"
        for i in range(60):
            picture = io.BytesIO()
            Image.new("RGB", (16, 16) if i < 50 else (160, 160)).save(picture, "JPEG")
            packet = av.Packet(picture.getvalue())
            packet.pts, packet.time_base, packet.is_keyframe = i, Fraction(1, 30), True
            packet.stream = stream
            output.mux(packet)
    assert video.frames_at(file.getvalue(), [1.9])[0].size == (160, 160)
    monkeypatch.setattr(video, "MAX_PIXELS", 20_000)
    assert video.frames_at(file.getvalue(), [1.0])[0].size == (16, 16)
    with pytest.raises(MediaError):
        video.frames_at(file.getvalue(), [1.9])


def test_a_frame_is_shown_until_the_next_whenever_that_comes():
    slides = movie(4, "mpeg4", "matroska", stamps=[0, 1000, 4000, 4500])
    shown = video.frames_at(slides, [0, 0.999, 1, 3.99, 4, 4.49, 4.5])
    np.testing.assert_allclose(numbers(shown), [0, 1, 1, 1, 2, 2, 3], atol=1)
    with video.open_video(slides) as opened:
        assert [frame.stamp for frame in opened.frames(0, 2)] == [0, 1000]
        assert [frame.stamp for frame in opened.frames(2, 1)] == [
            1000
        ]  # none begins: what is shown


@pytest.mark.parametrize(
    "source",
    [
        remuxed(LONG, "mp4", 10.0),
        remuxed(LONG, "matroska", 3600.0),
        remuxed(LONG, "mp4", movflags="frag_keyframe+empty_moov"),
        remuxed(LONG, "mov", 10.0, movflags="frag_keyframe+empty_moov"),
    ],
    ids=["mp4 at 10 s", "matroska at an hour", "fragments", "fragments at 10 s"],
)
def test_time_begins_with_the_file(source):
    assert video.duration(source) == pytest.approx(2, abs=1e-3)
    assert numbers(video.frames_at(source, [0, 1])) == [0, 30]
    assert stamps(source, 0.5, 0.5) == list(range(15, 30))


def test_frames_that_an_edit_list_hides_are_not_there():
    source = remuxed(LONG, "mp4", -0.5, avoid_negative_ts="disabled", use_editlist="1")
    assert numbers(video.frames_at(source, [0, 0.5])) == [15, 30]
    assert len(stamps(source, 0, 9)) == 45


class Pipe(io.BytesIO):
    def seekable(self):
        return False


def test_without_a_length_and_an_index_in_the_file():
    source = movie(60, container="matroska", muxer={"live": "1"}, file=Pipe())
    with av.open(io.BytesIO(source)) as file:
        assert file.duration is None
    assert video.duration(source) == pytest.approx(2, abs=2e-3)
    assert numbers(video.frames_at(source, [1.9, 0])) == [57, 0]


def test_one_frame_is_a_video():
    source = movie(1)
    assert video.duration(source) == pytest.approx(1 / 30)
    assert stamps(source, 0, 2) == [0]


@pytest.mark.parametrize("container", ["mp4", "matroska", "avi"])
def test_of_a_file_that_was_cut_off_there_is_what_comes_before(container):
    noise = np.random.default_rng(0).integers(0, 256, (60, HEIGHT, WIDTH, 3), np.uint8)
    whole = movie(60, "mpeg4", container, paint=noise.__getitem__)
    if container == "mp4":
        whole = moov_first(whole)
    cut = whole[: len(whole) // 2]
    there = stamps(cut, 0, 2)
    assert there == list(range(len(there))) and len(there) in range(20, 40)
    with video.open_video(whole) as a, video.open_video(cut) as b:
        for one, other in zip(*(v.decode(v.frames(0, 2)[: len(there)]) for v in (a, b))):
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    with pytest.raises(MediaError, match="no frames from 1.700 to 1.900 s"):
        stamps(cut, 1.7, 0.2)


def moov_first(source: bytes) -> bytes:
    """An MP4's header before its pictures, for which the places it lists have to be moved."""
    at, boxes = 0, []
    while at < len(source):
        length = int.from_bytes(source[at : at + 4], "big")
        boxes.append(source[at : at + length])
        at += length
    header = next(box for box in boxes if box[4:8] == b"moov")
    rest = [box for box in boxes if box is not header]
    table = header.index(b"stco")
    count = int.from_bytes(header[table + 8 : table + 12], "big")
    places = np.frombuffer(header, ">u4", count, table + 12) + len(header)
    moved = header[: table + 12] + places.astype(">u4").tobytes()
    return b"".join([rest[0], moved + header[len(moved) :], *rest[1:]])


# a, b, c, d of the display matrix -> what it does to an array of pixels
TURNS = {
    (0, 1, -1, 0): lambda x: np.rot90(x, -1),
    (-1, 0, 0, -1): lambda x: np.rot90(x, 2),
    (0, -1, 1, 0): lambda x: np.rot90(x, 1),
    (-1, 0, 0, 1): lambda x: x[:, ::-1],
    (1, 0, 0, -1): lambda x: x[::-1],
    (0, 1, 1, 0): lambda x: np.swapaxes(x, 0, 1),
}


@pytest.mark.parametrize("matrix", TURNS)
def test_phones_portraits_come_upright(matrix):
    corners = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    corners[: HEIGHT // 2, : WIDTH // 2] = 255, 0, 0
    corners[HEIGHT // 2 :, : WIDTH // 2] = 0, 255, 0
    flat = movie(2, paint=lambda i: corners)
    at = flat.index(b"tkhd") + 4 + 40  # version and flags, times, id, length, layer, volume
    a, b, c, d = (int(x * 65536).to_bytes(4, "big", signed=True) for x in matrix)
    turned = flat[:at] + a + b + bytes(4) + c + d + flat[at + 20 :]
    before, after = (np.asarray(video.frames_at(source, [0])[0]) for source in (flat, turned))
    np.testing.assert_array_equal(after, TURNS[matrix](before))


def sound_file(cover: bool) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        sound = output.add_stream("aac", rate=16_000)
        if cover:
            picture = output.add_stream("mjpeg")
            picture.width, picture.height, picture.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
            output.mux(picture.encode(av.VideoFrame(WIDTH, HEIGHT, "yuvj420p")))
            output.mux(picture.encode())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), "fltp", "mono")
        frame.rate = 16_000
        output.mux(sound.encode(frame))
        output.mux(sound.encode())
    return file.getvalue()


def with_sound(delay: float) -> bytes:
    """The packets of `LONG`, after `delay` seconds in which there is only sound."""
    file = io.BytesIO()
    with av.open(io.BytesIO(LONG)) as old, av.open(file, "w", format="matroska") as new:
        sound = new.add_stream("pcm_s16le", rate=8_000, layout="mono")
        stream = new.add_stream_from_template(old.streams.video[0])
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 24_000), np.int16), "s16", "mono")
        frame.rate = 8_000
        new.mux(sound.encode(frame))
        for packet in old.demux(video=0):
            if packet.size:
                packet.pts += round(delay / packet.time_base)
                packet.dts += round(delay / packet.time_base)
                packet.stream = stream
                new.mux(packet)
        new.mux(sound.encode())
    return file.getvalue()


def test_time_is_that_of_the_sound_if_that_begins_well_before():
    assert stamps(with_sound(0.0), 0, 1) == stamps(with_sound(0.07), 0, 1) == list(range(30))
    assert stamps(with_sound(0.5), 0, 1) == list(range(15, 30))  # 15 frames after half a second
    assert numbers(video.frames_at(with_sound(0.5), [0.5, 1.5])) == [0, 30]
    assert video.duration(with_sound(0.5)) == pytest.approx(2.5, abs=0.002)


def test_before_the_first_frame_the_first_is_seen():
    assert numbers(video.frames_at(with_sound(0.5), [0.2, 0.0])) == [0, 0]
    late = {"vision": with_sound(2.5)}  # 2.5 s of sound alone, 2 s of pictures
    assert stamps(late["vision"], 0, 2) == [75] and stamps(late["vision"], 2, 1) == [*range(75, 90)]
    assert shown(vision.EvalViews(3, 1, 16)(late, None)) == [[0, 0], [0, 22], [0, 59]]
    assert shown(vision.FramesTransform(16, seconds=0.5)({**late, "seconds": 1.0}, None)) == [0, 0]
    with pytest.raises(MediaError, match="no frames from -1.000"):
        video.frames_at(late["vision"], [-1.0])


@pytest.mark.parametrize("cover", [False, True])
def test_sound_is_no_video_nor_is_its_cover(cover):
    with av.open(io.BytesIO(sound_file(cover))) as file:
        assert len(file.streams.video) == cover
    with pytest.raises(MediaError, match="no video stream"):
        video.duration(sound_file(cover))


def test_a_frame_that_the_decoder_keeps_is_the_one_before_it():
    source = movie(4, "libvpx", "webm", rate=1)
    with av.open(io.BytesIO(source)) as file:
        packets = [bytes(packet) for packet in file.demux(video=0) if packet.size]
    for packet in packets[2:]:  # VP8's fifth bit says whether a frame is to be shown
        assert source.count(packet) == 1 and packet[0] & 16
        source = source.replace(packet, bytes([packet[0] & ~16]) + packet[1:])
    before, at = video.frames_at(source, [1, 2])
    np.testing.assert_array_equal(np.asarray(at), np.asarray(before))
    with pytest.raises(MediaError, match="the frame at 3.000 s does not decode"):
        video.frames_at(source, [3])


def test_other_files_are_refused_and_none_but_this_one_is_opened(tmp_path):
    (tmp_path / "secret.mp4").write_bytes(LONG)
    texts = {
        "list.mp4": "ffconcat version 1.0\nfile secret.mp4\n",
        "hls.mp4": "#EXTM3U\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n",
        "sdp.mp4": "v=0\nm=video 5004 RTP/AVP 96\n",
        "text.mp4": "hello",
        "empty.mp4": "",
    }
    for file, text in texts.items():
        (tmp_path / file).write_text(text)
    os.mkfifo(tmp_path / "fifo.mp4")
    for file in [*texts, "fifo.mp4", "none.mp4", "."]:
        with pytest.raises(MediaError):
            video.duration(tmp_path / file)


@pytest.mark.parametrize("time", [2.0, -1.0, math.nan, math.inf, 1e300])
def test_times_outside_are_errors(time):
    with pytest.raises(MediaError):
        video.frames_at(LONG, [time])


@pytest.mark.parametrize("mutants", [20, pytest.param(600, marks=pytest.mark.fuzz)])
@pytest.mark.parametrize("container", ["mp4", "matroska", "avi"])
def test_damaged_files_are_media_errors_or_pictures(container, mutants, rotating_seed):
    good = movie(20, "mpeg4", container)
    rng = np.random.default_rng(rotating_seed)
    outcomes = set()
    for _ in range(mutants):
        bad = bytearray(good)
        for at in rng.integers(0, len(bad), rng.integers(1, 12)):
            bad[at] = rng.integers(0, 256)
        try:
            [picture] = video.frames_at(bytes(bad), [0.5])
            outcomes.add(picture.mode)
        except MediaError as error:
            assert "\n" not in str(error)
            outcomes.add("error")
    assert outcomes == {"RGB", "error"}


def shown(clips: np.ndarray) -> list:
    """The numbers of the frames in [..., size, size, 3]."""
    grey = (clips * vision.STD + vision.MEAN).mean(axis=(-1, -2, -3))
    return np.round(grey * 255 / 4).astype(int).tolist()


@pytest.mark.parametrize("name", ["wide_320x240_30fps_6s.mp4", "tall_240x426_25fps_3s.mp4"])
def test_views_equal_the_reference(name):
    # Every 8th pixel of pytorchvideo's transforms with decord. It is 5e-7; another FFmpeg may
    # round colours differently.
    views = vision.EvalViews()({"vision": GOLDEN / "video" / name}, None)
    assert views.shape == (15, 2, 224, 224, 3) and views.dtype == np.float32
    expected = np.load(GOLDEN / "video" / "views_every8th.npz")[name]
    difference = np.abs(views[:, :, ::8, ::8] - expected)
    assert difference.max() < 1e-2 and difference.mean() < 1e-3


def test_a_clip_for_evaluation_is_the_middle():
    assert shown(vision.FramesTransform(16)({"vision": LONG}, None)) == [0, 59]  # all there is
    assert shown(vision.FramesTransform(16, seconds=1.0)({"vision": LONG}, None)) == [15, 44]
    assert shown(vision.FramesTransform(16, 3, 1.0)({"vision": LONG}, None)) == [15, 29, 44]
    short = vision.FramesTransform(16, 3)({"vision": movie(2)}, None)
    assert short.shape == (3, 16, 16, 3) and shown(short) == [0, 0, 1]


def test_a_clip_for_training_starts_where_the_sample_does():
    clip = vision.FramesTransform(16, seconds=0.5)
    for seed in range(5):
        first = math.ceil(30 * SharedAugmentation(seed).start(2.0, 0.5) - 0.03)
        got = shown(
            clip({"vision": LONG, "view": SharedAugmentation(seed)}, np.random.default_rng(0))
        )
        assert got == [first, first + 14]
    drawn = {tuple(shown(clip({"vision": LONG}, np.random.default_rng(i)))) for i in range(5)}
    assert len(drawn) > 2


def test_a_record_may_be_a_part_of_its_video(tmp_path):
    (tmp_path / "a.mp4").write_bytes(LONG)
    part = {"vision": tmp_path / "a.mp4", "start": 0.5, "seconds": 1.0}
    clip = vision.FramesTransform(16, seconds=0.5)
    assert shown(clip(part, None)) == [23, 37]
    assert shown(vision.FramesTransform(16)(part, None)) == [15, 44]
    assert shown(vision.FramesTransform(16)(part | {"seconds": None}, None)) == [15, 59]
    views = vision.EvalViews(2, 1, 16, 2, 0.5)
    assert shown(views(part, None)) == [[15, 29], [30, 44]]
    assert shown(views({"vision": str(tmp_path / "a.mp4")}, None)) == [[0, 14], [45, 59]]
    typed = {"start": "0.5", "seconds": np.float32(1)}  # out of a table, say
    assert shown(vision.FramesTransform(16)(part | typed, None)) == [15, 44]
    before = {"start": -0.5, "seconds": 2.0}
    for bad in ({"start": 2.5}, before, {"seconds": 0.0}, {"start": math.nan}):
        with pytest.raises(MediaError):
            vision.FramesTransform(16)(part | bad, None)


def test_views_lie_along_the_long_side_clip_by_clip():
    ramp = np.repeat(np.linspace(0, 255, WIDTH).astype(np.uint8)[None, :, None], HEIGHT, 0)
    wide = movie(60, paint=lambda i: np.repeat(ramp, 3, -1))
    grey = np.array(shown(vision.EvalViews(2, 3, 48, 2, 1.0)({"vision": wide}, None)))
    assert grey.shape == (6, 2)
    np.testing.assert_allclose(grey[:, 0], np.array([24, 32, 40] * 2) * 255 / 256, atol=1.5)
    centre = shown(vision.EvalViews(2, 1, 48, 2, 1.0)({"vision": wide}, None))
    np.testing.assert_array_equal(centre, grey[1::3])


def test_a_video_is_augmented_alike_in_all_its_frames():
    picture = np.random.default_rng(0).integers(0, 255, (6, 8, 3)).repeat(8, 0).repeat(8, 1)
    source = {"vision": movie(1, paint=lambda i: picture.astype(np.uint8))}
    clip = vision.FramesTransform(32, augment=SpatialAugmentation((0.3, 0.6)))
    first, again, other = (clip(source, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], first[1])
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 0.1
    np.testing.assert_array_equal(clip(source, None), vision.FramesTransform(32)(source, None))


class NoPyAV:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "av":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_without_pyav_a_video_names_the_remedy(monkeypatch):
    for module in [name for name in sys.modules if name.split(".")[0] == "av"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [NoPyAV(), *sys.meta_path])
    uses = (lambda: vision.FramesTransform()({"vision": LONG}, None), lambda: ib.load_videos(LONG))
    for use in uses:
        with pytest.raises(UserError, match="pip install 'imagebind-jax\\[video\\]'") as caught:
            use()
        assert not isinstance(caught.value, MediaError)
