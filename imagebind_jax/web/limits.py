"""How much the page takes at once: of uploads, questions, pixels, seconds and words."""

from imagebind_jax.errors import UserError

MAX_UPLOAD_BYTES = 32 << 20  # bytes of one upload, all its files together
MAX_JSON_BYTES = 1 << 20  # bytes of any other request
MAX_CONCURRENCY = 2  # questions that are answered, and uploads that are received, at the same time
MAX_QUEUE = 16  # questions in the queue; one more is told to come back
BODY_TIMEOUT = 60.0  # seconds until a request has to be here whole
SESSIONS = 100  # visits whose files are remembered, as vectors and small pictures; the oldest go
MAX_UPLOAD_DIR_BYTES = 256 << 20  # bytes of uploads that nobody has asked about yet
FILES = 12  # of one drop
MAX_COMPARED = 24  # that are compared with each other
MAX_CHARACTERS = 2000  # characters of a sentence
PIXELS = 25_000_000  # of an uploaded image
SECONDS = 600.0  # of an uploaded recording or video


def split_sentences(text: str, most: int = MAX_COMPARED) -> list[str]:
    """One a line, without empty ones. Raises UserError where they are too long, or too many."""
    found = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if len(found) > most:
        raise UserError(f"{len(found)} sentences: at most {most} things are compared")
    if long := [line for line in found if len(line) > MAX_CHARACTERS]:
        raise UserError(f"a sentence of {len(long[0]):,} characters: at most {MAX_CHARACTERS:,}")
    return found
