"""Makes the files beside it: tiny random CLIP models, and what their own libraries compute of them.

Needs torch 2.13, open_clip_torch 3.3 and transformers 5.23, none of which the tests need:
`python make.py`. All parameters are random, biases and norms too, so that each of them matters;
the largest token, 39, is the end of a text, as in CLIP's vocabulary of 49,408.
"""

import copy
import json
import pathlib

import numpy as np
import torch
from open_clip.model import CLIP, convert_weights_to_lp
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

HERE = pathlib.Path(__file__).parent
OPEN_CLIP = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 24, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 40, "width": 16, "heads": 4, "layers": 2},
}
HUGGING_FACE = CLIPConfig(
    vision_config={
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "image_size": 32,
        "patch_size": 8,
        "projection_dim": 10,
    },
    text_config={
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 12,
        "projection_dim": 10,
        "bos_token_id": 38,
        "eos_token_id": 39,
        "pad_token_id": 39,
    },
    projection_dim=10,
)


def randomised(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name == "logit_scale":
            parameter.data = torch.tensor(23.4).log()
        elif parameter.ndim == 1:  # norms and biases
            parameter.data += 0.3 * noise
        else:
            fan_in = parameter[0].numel() if "projection" not in name else len(parameter)
            parameter.data = noise * fan_in**-0.5
    return model.eval()


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1)


def layers_of(model, image, text):
    """Tokens before the first block and behind each, of both towers: [B, L, D]."""
    found = {}

    def keep(name):
        def hook(_, inputs, output):
            found[name] = output

        return hook

    model.visual.conv1.register_forward_hook(keep("vision_patches"))
    model.visual.ln_pre.register_forward_hook(keep("vision_0"))
    model.token_embedding.register_forward_hook(keep("text_embedding"))
    for i in range(2):
        model.visual.transformer.resblocks[i].register_forward_hook(keep(f"vision_{i + 1}"))
        model.transformer.resblocks[i].register_forward_hook(keep(f"text_{i + 1}"))
    model.visual.ln_post.register_forward_hook(keep("vision_norm"))
    model.ln_final.register_forward_hook(keep("text_norm"))
    found["image"] = model.encode_image(image, normalize=True)
    found["text"] = model.encode_text(text, normalize=True)
    return found


@torch.no_grad()
def archive_of_openai():
    """A TorchScript archive as OpenAI's, of weights beside it, and what they compute in float32.

    Two traced methods; half precision, but for norms and embeddings; the three sizes are tensors,
    the causal mask is a constant. One layer of text less: the code in it takes a third of the file.
    """
    config = copy.deepcopy(OPEN_CLIP) | {"quick_gelu": True}
    config["text_cfg"]["layers"] = 1
    model = CLIP(**config).eval()
    state = torch.load(HERE / "open_clip.pt", weights_only=True)
    model.load_state_dict({k: v for k, v in state.items() if k in model.state_dict()})
    convert_weights_to_lp(model, torch.float16)
    for name, size in {"input_resolution": 32, "context_length": 12, "vocab_size": 40}.items():
        vars(model).pop(name, None)
        model.register_buffer(name, torch.tensor(size))
    mask = model.attn_mask
    del model.attn_mask
    model.attn_mask = mask

    io = np.load(HERE / "io.npz")
    image, text = torch.tensor(io["in_image"]), torch.tensor(io["in_text"])
    methods = {"encode_image": image.half(), "encode_text": text}
    torch.jit.save(torch.jit.trace_module(model, methods), HERE / "openai_jit.pt")
    wide = model.float()
    found = {
        "image": wide.encode_image(image, normalize=True),
        "text": wide.encode_text(text, normalize=True),
    }
    np.savez(HERE / "openai_jit.npz", **{k: v.numpy() for k, v in found.items()})


@torch.no_grad()
def main():
    rng = np.random.default_rng(0)
    image = torch.tensor(rng.standard_normal((2, 3, 32, 32)), dtype=torch.float32)
    text = torch.tensor(rng.integers(1, 38, (3, 12)))
    text[:, 0] = 38
    for row, length in zip(text, (4, 12, 7)):
        row[length - 1] = 39
        row[length:] = 0
    text[2, 7:] = 39  # Hugging Face pads with the end token
    io = {"in_image": image, "in_text": text}

    model = randomised(CLIP(**OPEN_CLIP), 1)
    torch.save(model.state_dict(), HERE / "open_clip.pt")
    (HERE / "open_clip_config.json").write_text(json.dumps(OPEN_CLIP, indent=1) + "\n")
    io |= {f"open_clip_{k}": v for k, v in layers_of(model, image, text).items()}

    quick = CLIP(**OPEN_CLIP, quick_gelu=True).eval()  # as OpenAI's: the same weights
    quick.load_state_dict(model.state_dict())
    io["openai_image"] = quick.encode_image(image, normalize=True)
    io["openai_text"] = quick.encode_text(text, normalize=True)

    model = randomised(CLIPModel(HUGGING_FACE), 2)
    out = model(pixel_values=image, input_ids=text)
    io["hugging_face_image"], io["hugging_face_text"] = (
        unit(out.image_embeds),
        unit(out.text_embeds),
    )
    folder = HERE / "hugging_face"
    folder.mkdir(exist_ok=True)
    HUGGING_FACE.save_pretrained(folder)
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)

    np.savez_compressed(HERE / "io.npz", **{k: v.numpy() for k, v in io.items()})
    archive_of_openai()


if __name__ == "__main__":
    main()
