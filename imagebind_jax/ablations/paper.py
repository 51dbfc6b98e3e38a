"""The paper's ablations: its numbers and claims beside the settings that are their counterpart.

Source of all numbers: arXiv:2305.05665v2, tables 2, 5, 6 and 7 and the appendix; depth is SUN RGB-D's
top-1 there (NYU v2's in table 7), audio ESC-50's.
"""

import dataclasses

from imagebind_jax.ablations.baselines import AUDIO, AUDIO_AND_DEPTH, BASELINE, DEPTH, claims, row
from imagebind_jax.ablations.spec import Ablation, AblationRow


def _epochs(label: str, times: int, depth: float, audio: float, paper: str) -> AblationRow:
    settings = {
        task: dataclasses.replace(base, epochs=times * base.epochs)
        for task, base in BASELINE.items()
    }
    return AblationRow(label, settings, {"depth": depth, "audio": audio}, paper)


ABLATIONS: tuple[Ablation, ...] = (
    Ablation(
        "image-encoder",
        "Stronger image encoders",
        "Table 6",
        (
            row("small", image_encoder="small"),
            row("base", 26.7, 56.7, paper="ViT-B"),
            row("large", 29.5, 60.3, paper="ViT-H", image_encoder="large"),
        ),
        (
            *claims("a large image encoder binds better than a base one", "large", "base", *AUDIO_AND_DEPTH),
            *claims("a base image encoder binds better than a small one", "base", "small", *AUDIO_AND_DEPTH, ours=True),
        ),
        "The frozen image tower (and the text tower learned with it) grows, the encoder that is "
        "bound to it stays. The towers here are 40, 96 and 160 wide with 1, 2 and 3 layers.",
    ),
    Ablation(
        "temperature",
        "Temperature",
        "Table 5(a)",
        (
            row("learned", 24.1, 54.8, temperature=0.07, learned=True),
            row("0.05", 27.0, 56.7, temperature=0.05),
            row("0.07", 27.3, 52.4, temperature=0.07),
            row("0.1", temperature=0.1),
            row("0.2", 26.7, 45.4, temperature=0.2),
            row("1.0", 28.0, 24.3, temperature=1.0),
        ),
        (
            *claims("a fixed temperature beats a learned one", "0.2", "learned", "depth"),
            *claims("a fixed temperature beats a learned one", "0.05", "learned", "audio"),
            *claims("a fixed temperature beats one learned from it", "0.07", "learned", "depth"),
            *claims("a fixed temperature beats one learned from it", "0.07", "learned", "audio", ours=True),
            *claims("depth likes a high temperature", "1.0", "0.05", "depth"),
            *claims("audio likes a low temperature", "0.05", "1.0", "audio"),
        ),
        "Five fixed temperatures, and one that is learned from 0.07 on, as the paper's is; here 30 times as fast "
        "as all else, as runs are too short to move it otherwise.",
    ),
    Ablation(
        "head",
        "Projection head",
        "Table 5(b)",
        (row("linear", 26.7, 56.7), row("MLP", 26.5, 51.0, head="mlp")),
        claims("a linear head beats an MLP", "linear", "MLP", *AUDIO_AND_DEPTH),
        "Linear, or Linear - GELU - Linear as wide as the encoder.",
    ),
    Ablation(
        "epochs",
        "Training longer",
        "Table 5(c)",
        (
            _epochs("1 x", 1, 26.7, 56.7, "16"),
            _epochs("2 x", 2, 27.9, 61.3, "32"),
            _epochs("4 x", 4, 29.9, 62.9, "64"),
        ),
        (
            *claims("training four times as long helps", "4 x", "1 x", *AUDIO_AND_DEPTH),
            *claims("training twice as long helps", "2 x", "1 x", *AUDIO_AND_DEPTH),
        ),
        f"Once, twice and four times the baseline's epochs ({DEPTH.epochs} for depth, {AUDIO.epochs} "
        "for audio), each with a whole schedule of its own.",
    ),
    Ablation(
        "image-augmentation",
        "Image augmentation",
        "Table 5(d)",
        (
            AblationRow("basic",
                {"depth": dataclasses.replace(DEPTH, augmentation="basic"), "audio": AUDIO},
                {"depth": 25.4, "audio": 56.7}),
            AblationRow("strong",
                {"depth": DEPTH, "audio": dataclasses.replace(AUDIO, augmentation="strong")},
                {"depth": 26.7, "audio": 22.6}),
        ),
        (
            *claims("depth likes strongly augmented images", "strong", "basic", "depth"),
            *claims("audio likes images that are hardly augmented", "basic", "strong", "audio"),
        ),
        "Basic: random crops, flips and colour jitter; strong: RandAugment and random erasing, too. "
        "A depth map shares the crop, the flip and the geometric operations of its image.",
    ),
    Ablation(
        "spatial-alignment",
        "Spatial alignment of crops",
        "Table 5(e)",
        (
            row("none", 16.0, of=("depth",), aligned=False),
            row("aligned", 26.7, of=("depth",)),
        ),
        claims("aligned crops of an image and its depth map are better", "aligned", "none", "depth"),
        "Crops keep from 30 to 100 % of a picture, so that two of them may show other parts. Not "
        "aligned, the two crops, flips and operations are drawn apart.",
    ),
    Ablation(
        "random-erasing",
        "Random erasing",
        "Table 5(f)",
        (
            row("none", 24.2, of=("depth",), erase=False),
            row("yes", 26.7, of=("depth",)),
        ),
        claims("random erasing helps", "yes", "none", "depth"),
        "A rectangle of a quarter of the depth maps. (The images' own stays.)",
    ),
    Ablation(
        "temporal-alignment",
        "Temporal alignment",
        "Table 5(g)",
        (
            row("none", audio=55.7, of=("audio",), aligned=False),
            row("aligned", audio=56.7, of=("audio",)),
        ),
        claims("clip and sound of the same moment are better", "aligned", "none", "audio"),
        "The world's recordings have three moments of one object, and a quarter of them cut to "
        "another scene between two of these. Not aligned, a picture is of any moment of the sound's "
        "recording: in 11 % of pairs of another scene.",
    ),
    Ablation(
        "frequency-masking",
        "Frequency masking",
        "Table 5(h)",
        (
            row("none", audio=56.5, of=("audio",), mask_bands=0),
            row("yes", audio=56.7, of=("audio",)),
        ),
        claims("masking frequencies helps", "yes", "none", "audio"),
        "Up to 12 neighbouring bands of the 128, as in the paper.",
    ),
    Ablation(
        "capacity",
        "Capacity of the encoders",
        "Table 6",
        (
            row("image encoder base, own small", 30.7, 52.8, encoder="small"),
            row("image encoder base, own base", 26.7, 56.7),
            row("image encoder large, own small", 33.3, 54.8, image_encoder="large", encoder="small"),
            row("image encoder large, own base", 29.5, 60.3, image_encoder="large"),
        ),
        (
            *claims("a small depth encoder beats a larger one", "image encoder base, own small", "image encoder base, own base", "depth"),
            *claims("a larger audio encoder beats a small one", "image encoder base, own base", "image encoder base, own small", "audio"),
            *claims("a small depth encoder beats a larger one, against the large image encoder", "image encoder large, own small", "image encoder large, own base", "depth"),
            *claims("a larger audio encoder beats a small one, against the large image encoder", "image encoder large, own base", "image encoder large, own small", "audio"),
        ),
        "Own: the encoder of depth, or of audio, that is bound to the image encoder. The paper's ViT-S "
        "and ViT-B; here 48 wide with 1 layer and 96 wide with 2.",
    ),
    Ablation(
        "batch-size",
        "Batch size",
        "Table 7",
        (
            row("32", 47.3, 39.4, paper="512", batch_size=32),
            row("64", 46.5, 53.9, paper="1k", batch_size=64),
            row("128", 43.0, 56.7, paper="2k", batch_size=128),
            row("256", 39.9, 53.9, paper="4k", batch_size=256),
        ),
        (
            *claims("depth likes small batches", "32", "256", "depth"),
            *claims("audio likes larger batches", "128", "32", "audio"),
            *claims("audio does not like the largest batches", "128", "256", "audio"),
        ),
        "The same epochs, so fewer steps with larger batches, at one learning rate: the paper does "
        "not say that its rate changed.",
    ),
    Ablation(
        "objective",
        "Contrastive or regression",
        "Appendix",
        (
            row("contrastive", 31.74),
            row("joint", 29.04, objective="joint"),
            row("regression", 25.17, objective="regression"),
        ),
        (
            *claims("InfoNCE beats regression to the image's embedding", "contrastive", "regression", "depth"),
            *claims("InfoNCE beats regression to the image's embedding", "contrastive", "regression", "audio", ours=True),
            *claims("InfoNCE alone beats both losses together", "contrastive", "joint", "depth"),
        ),
        "Regression: the squared distance to the image's embedding; joint: the sum of both losses. "
        "The paper has depth only.",
    ),
    Ablation(
        "hub",
        "What to bind to",
        "Table 2, ESC-50: ImageBind and AudioCLIP",
        (
            row("image", audio=66.9),
            row("text", hub="text"),
            row("image and text", hub="both"),
            row("class names", audio=68.6, hub="labels"),
        ),
        (
            *claims("pairs with class names beat emergent binding", "class names", "image", *AUDIO_AND_DEPTH, ours=True),
            *claims("images and text together beat images alone", "image and text", "image", *AUDIO_AND_DEPTH, ours=True),
            *claims("binding to text beats binding to images", "text", "image", *AUDIO_AND_DEPTH, ours=True),
            *claims("class names beat captions", "class names", "text", *AUDIO_AND_DEPTH, ours=True),
        ),
        "Image is ImageBind's way. Text: the frozen text tower in the image tower's place, as LanguageBind "
        "binds, with captions that tell one to four of a scene's attributes (the camera's motion among "
        "them, which nothing else shows here). Image and text: both in turns. Class names: the class's "
        "own prompts, which is supervision by the labels that are asked for, and an upper bound; "
        "AudioCLIP, whose number is of another model, as in the paper's table, had AudioSet's.",
    ),
)  # fmt: skip
