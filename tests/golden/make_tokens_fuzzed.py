"""Makes tokens_fuzzed.json: texts of every kind, and the tokens that open_clip gives them.

Needs open_clip_torch 3.3, ftfy 6.3.1 and regex 2026.11.15, run with Python 3.11:
`python make_tokens_fuzzed.py`. Only characters of Unicode 14, so that no newer table of another
Python or regex gives them other letters. open_clip's tokenizer (MIT) has the cleaning that
ImageBind's has: ftfy, HTML entities twice, white space, lower case. They differ in how the special
tokens are spelled, <|startoftext|> in ImageBind and <start_of_text> there: no text has either whole.
"""

import html
import importlib.util
import json
import pathlib
import random
import sys
import unicodedata

HERE = pathlib.Path(__file__).parent
LINES = (
    "a photo of the dog cat bird car train siren rain thunder guitar kitchen bedroom street person",
    "walking running small large blurry black white bright don't it's we'll they're I've o'clock",
    "naïve café São Paulo Zürich coöperate façade ΟΔΟΣ Σίσυφος Привет мир שלום مرحبا नमस्ते สวัสดี",
    "日本語 中文 한국어 ﬁne ½ № ™ ① Ⅷ İstanbul ǅ ẞ 3.14 1,000 2024 x86_64 C++ e-mail #tag @you",
    "https://example.org/a?b=c&d=e f(x)=x^2 :-) ... !!! ?! -- — “quoted” ‘single’ «guillemets»",
)
WORDS = [word for line in LINES for word in line.split()]
EMOJI = ["🐶", "👩‍👩‍👧‍👦", "👍🏽", "🇩🇪", "🏳️‍🌈", "❤️", "1️⃣", "🤷‍♀️", "🧑🏿‍🚀", "☺", "⛄️", "🫠"]
BRACKETS = ["<|start", "<|endoftext|", "endoftext|>", "|>", "<|>", "<<", "<p>", "</p>"]
ENTITIES = ["&amp;", "&lt;b&gt;", "&quot;", "&#39;", "&#x1F436;", "&nbsp;", "&eacute", "&hellip;"]
ENTITIES += ["&amp;amp;", "&amp;lt;i&amp;gt;", "&amp;amp;amp;", "&#0;", "&#128;", "&#xD800;", "&;"]
CODECS = ["latin-1", "cp1252", "mac_roman", "cp437", "cp1250", "cp1251"]


def texts(rng: random.Random) -> list[str]:
    kinds: dict[str, list[str]] = {}
    for code in range(sys.maxunicode + 1):
        kinds.setdefault(unicodedata.category(chr(code)), []).append(chr(code))
    del kinds["Cn"]  # not assigned: one day they may be letters
    made = []
    for _, letters in sorted(kinds.items()):  # of every kind of character
        for size in (1, 4, 9):
            made.append("".join(rng.choices(letters, k=size)))
            made.append(" ".join(rng.choice(letters) + rng.choice(WORDS) for _ in range(size)))
    some = [rng.choices(letters, k=12) for letters in kinds.values()]
    everything = [letter for letters in some for letter in letters]
    made += ["".join(rng.choices(everything, k=rng.randint(1, 40))) for _ in range(40)]
    for _ in range(30):
        pieces = rng.choices(WORDS + EMOJI + ENTITIES + BRACKETS, k=rng.randint(2, 14))
        made.append(rng.choice(["", " ", "  ", "\n", "\t "]).join(pieces))
        made.append(
            "".join(
                rng.choice([str.upper, str.title, str.swapcase, str.lower])(piece)
                for piece in pieces
            )
        )
        made.append(html.escape(html.escape(" ".join(pieces))))
        broken = " ".join(rng.choices(WORDS, k=4)).encode()
        made.append(broken.decode(rng.choice(CODECS), "replace"))
        made.append("".join(rng.choices(list(map(chr, range(160))), k=rng.randint(1, 30))))
    made += [" ".join(rng.choices(WORDS, k=count)) for count in (60, 75, 76, 77, 78, 90, 150)]
    made += ["dog " * 75, "dog " * 74 + "cat", "dog " * 76, "dog" * 200, "ha" * 150, "!" * 500]
    made += ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=size)) for size in (33, 90, 600)]
    made += [
        "🐶" * 100,
        "é" * 300,
        "日" * 100,
        "ab\ncd " * 30,
        "x" * 33 + "'s",
        "<b>&amp;lt;\n&lt;",
    ]
    return made


def main() -> None:
    folder = pathlib.Path(importlib.util.find_spec("open_clip").origin).parent
    spec = importlib.util.spec_from_file_location("tokenizer", folder / "tokenizer.py")
    module = importlib.util.module_from_spec(spec)  # without open_clip's models, and torchvision
    spec.loader.exec_module(module)
    tokenizer = module.SimpleTokenizer()
    cases = []
    for text in texts(random.Random(0)):
        tokens = tokenizer(text)[0].tolist()
        padding = tokens[::-1].index(49407)
        cases.append([text, tokens[: len(tokens) - padding]])
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    (HERE / "tokens_fuzzed.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
