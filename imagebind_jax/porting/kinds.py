"""What a file is that is no PyTorch checkpoint, and what to do about it."""

import mmap

from imagebind_jax.errors import UserError
from imagebind_jax.porting.archive import AGAIN, Archive

SAVE = "save the state dict with torch.save"
OTHERS: tuple[tuple[int, bytes, str], ...] = (  # where, what stands there, and what that means
    (2, b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19", "is in torch's format from before 1.6: load it "
     "where it is trusted, and save it again with torch 1.6 or newer"),
    (0, b"version https://git-lfs", "is a Git LFS pointer, not the file: run `git lfs pull`"),
    (0, b"<", "is a web page, not a checkpoint: download the file itself, with its direct link"),
    (0, b"{", "is a text, not a checkpoint: it may say why the download failed"),
    (8, b"{", "is a safetensors file: rename it to .safetensors"),
    (0, b"\x1f\x8b", "is compressed with gzip: run `gunzip` first"),
    (0, b"BZh", "is compressed with bzip2: run `bunzip2` first"),
    (0, b"\xfd7zXZ", "is compressed with xz: run `unxz` first"),
    (0, b"\x28\xb5\x2f\xfd", "is compressed with zstd: run `unzstd` first"),
    (257, b"ustar", f"is a tar archive: unpack it, or {SAVE} of torch 1.6 or newer"),
    (0, b"\x93NUMPY", f"is a NumPy array, not a checkpoint: {SAVE}"),
    (0, b"\x89HDF", f"is an HDF5 file, not a PyTorch checkpoint: {SAVE}"),
    (0, b"\x80", f"is a bare pickle, which torch.save does not write: {SAVE}"),
)  # fmt: skip


def check_kind(pages: mmap.mmap | bytes) -> None:
    """Raises UserError naming what the file is instead of a zip archive."""
    if pages[:4] == b"PK\3\4":
        return
    head = pages[:512]
    for start, mark, meaning in OTHERS:
        text = head.removeprefix(b"\xef\xbb\xbf").lstrip() if start == 0 else head[start:]
        if text.startswith(mark):
            raise UserError(meaning)
    raise UserError(f"is not a PyTorch checkpoint: it begins with {head[:8]!r}")


def check_records(archive: Archive) -> None:
    """Raises UserError unless the archive holds what torch.save or torch.jit.save puts there."""
    names = archive.names
    if "constants.pkl" in names and not archive.has_code:
        raise UserError(f"is a TorchScript archive that lost its code; {AGAIN}")
    pickles = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
    if pickles != ["data.pkl"] or "version" not in names:
        raise UserError(f"is a zip archive, but not one of torch.save: {SAVE}")
    version = archive.read("version", 16).strip()
    if not (version.isdigit() and 1 <= int(version) <= 10):  # torch 2.13 reads 1 to 10, writes 3
        raise UserError(f"is of format version {version!r}; 1 to 10 are read")
    if "byteorder" in names and archive.read("byteorder", 16) != b"little":
        raise UserError("was written on a big-endian machine: save it again on another")
