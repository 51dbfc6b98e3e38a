"""Five pairs in LLVIP's layout, one of them without its thermal image."""

import io
import pathlib

from PIL import Image

from imagebind_jax.inputs.world import World

SIZE = 256  # pixels of width and height; LLVIP's are 1280 x 1024
TRAIN = ("010001", "010002")
TEST = ("190001", "190002")
MISSING = "190003"  # its visible image is there
# Pedestrians of an image: left, top, right, bottom. One is beyond the border, one has no area.
BOXES = {
    "010001": ((20, 30, 50, 110),),
    "010002": (),
    "190001": ((20, 40, 60, 140), (100, 50, 130, 120)),
    "190002": ((200, 100, 300, 220), (70, 70, 70, 90)),
    "190003": ((10, 10, 40, 80),),
}


def write(folder: pathlib.Path) -> None:
    """LLVIP/ in `folder`."""
    root = folder / "LLVIP"
    (root / "Annotations").mkdir(parents=True)
    for index, stem in enumerate((*TRAIN, *TEST, MISSING)):
        split = "train" if stem in TRAIN else "test"
        record = World(0).record("train", index, ("vision", "thermal"))
        _write(root / "visible" / split / f"{stem}.jpg", record["vision"][0])
        if stem != MISSING:
            _write(root / "infrared" / split / f"{stem}.jpg", record["thermal"])
        (root / "Annotations" / f"{stem}.xml").write_text(_annotation(stem))


def _write(path: pathlib.Path, media: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.open(io.BytesIO(media)).convert("RGB")  # thermal too: three equal channels
    image.resize((SIZE, SIZE)).save(path, quality=95)


def _annotation(stem: str) -> str:
    objects = "".join(
        f"""
	<object>
		<name>person</name>
		<pose>Unspecified</pose>
		<truncated>0</truncated>
		<difficult>0</difficult>
		<bndbox>
			<xmin>{left}</xmin>
			<ymin>{top}</ymin>
			<xmax>{right}</xmax>
			<ymax>{bottom}</ymax>
		</bndbox>
	</object>"""
        for left, top, right, bottom in BOXES[stem]
    )
    return f"""<annotation>
	<folder>images</folder>
	<filename>{stem}.jpg</filename>
	<path>{stem}.jpg</path>
	<source>
		<database>Unknown</database>
	</source>
	<size>
		<width>{SIZE}</width>
		<height>{SIZE}</height>
		<depth>3</depth>
	</size>
	<segmented>0</segmented>{objects}
</annotation>
"""
