"""Key map of the conversion from diffusers: our tensor names → diffusers' (or transformers') names.

Each table maps the name of a module to theirs. Keys of the block tables are the part of a tensor's name
before `weight` or `bias`.
"""

from __future__ import annotations

# U-Net: residual block.
_RESIDUAL = {
    "norm_1": "norm1",
    "conv_1": "conv1",
    "embed": "time_emb_proj",
    "norm_2": "norm2",
    "conv_2": "conv2",
    "skip": "conv_shortcut",
}
# U-Net: attention block.
_ATTENTION = {
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "context_k": "add_k_proj",
    "context_v": "add_v_proj",
    "out": "to_out.0",
}
# U-Net: layers outside of the blocks, and the residual blocks in the middle.
_OUTER = {"conv_in": "conv_in", "norm": "conv_norm_out", "conv_out": "conv_out"}
_MIDDLE = {"middle_1": "resnets.0", "middle_2": "resnets.1"}

# Prior: layers outside of the transformer.
_PRIOR = {
    "text": "encoder_hidden_states_proj",
    "text_embed": "embedding_proj",
    "time": "time_embedding",
    "image_embed": "proj_in",
    "query": "prd_embedding",
    "positions": "positional_embedding",
    "out_proj": "proj_to_clip_embeddings",
}
# Prior: transformer block.
_BLOCK = {
    "norm_1": "norm1",
    "q": "attn1.to_q",
    "k": "attn1.to_k",
    "v": "attn1.to_v",
    "out": "attn1.to_out.0",
    "norm_2": "norm3",
    "up": "ff.net.0.proj",
    "down": "ff.net.2",
}
# CLIP's text encoder, as transformers names it: embedding tables, and transformer block.
_EMBEDDINGS = {"tokens": "token_embedding", "positions": "position_embedding"}
_TEXT = {
    "norm_1": "layer_norm1",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "out": "self_attn.out_proj",
    "norm_2": "layer_norm2",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
}
# Decoder: projections of z_i and the caption.
_CONDITION = {
    "embed_to_time": "clip_image_embeddings_project_to_time_embeddings",
    "text_to_time": "embedding_proj",
    "embed_to_tokens": "clip_extra_context_tokens_proj",
    "text_to_context": "encoder_hidden_states_proj",
    "context_norm": "text_encoder_hidden_states_norm",
}


def unet(name: str) -> str:
    """Name in a UNet2DModel or UNet2DConditionModel of our U-Net's tensor `name`.

    `down.0.blocks.1.conv_1.weight` → `down_blocks.0.resnets.1.conv1.weight`.
    """
    match name.split("."):
        case ["conv_in" | "norm" | "conv_out" as layer, kind]:
            return f"{_OUTER[layer]}.{kind}"
        case ["time", linear, kind]:
            return f"time_embedding.{linear}.{kind}"
        case ["middle_1" | "middle_2" as block, leaf, kind]:
            return f"mid_block.{_MIDDLE[block]}.{_RESIDUAL[leaf]}.{kind}"
        case ["middle_attention", leaf, kind]:
            return f"mid_block.attentions.0.{_ATTENTION[leaf]}.{kind}"
        case [side, level, "blocks", i, leaf, kind]:
            return f"{side}_blocks.{level}.resnets.{i}.{_RESIDUAL[leaf]}.{kind}"
        case [side, level, "attention", i, leaf, kind]:
            return f"{side}_blocks.{level}.attentions.{i}.{_ATTENTION[leaf]}.{kind}"
        case [side, level, "resampler", leaf, kind]:
            return f"{side}_blocks.{level}.{side}samplers.0.{_RESIDUAL[leaf]}.{kind}"
    raise AssertionError(name)


def prior(name: str) -> str:
    """Name in a PriorTransformer of our Prior's tensor, prefixed with the component `prior.`."""
    if name in ("mean", "std"):
        return f"prior.clip_{name}"
    match name.removeprefix("network.").split("."):
        case ["body", "norm", kind]:
            return f"prior.norm_out.{kind}"
        case ["body", "blocks", i, leaf, kind]:
            return f"prior.transformer_blocks.{i}.{_BLOCK[leaf]}.{kind}"
        case [layer, *rest]:
            return ".".join(["prior", _PRIOR[layer], *rest])
    raise AssertionError(name)


def text_tower(name: str) -> str:
    """Name in a CLIPTextModelWithProjection of our TextTower's tensor."""
    if name.startswith("projection."):
        return "text_projection.weight"
    return f"text_model.{text_model(name)}"


def text_model(name: str) -> str:
    """Name in a CLIPTextModel, without `text_model.`, of our text encoder's tensor."""
    match name.removeprefix("encoder.").split("."):
        case ["tokens" | "positions" as table, *_]:
            return f"embeddings.{_EMBEDDINGS[table]}.weight"
        case ["body", "norm", kind]:
            return f"final_layer_norm.{kind}"
        case ["body", "blocks", i, leaf, kind]:
            return f"encoder.layers.{i}.{_TEXT[leaf]}.{kind}"
    raise AssertionError(name)


def decoder(name: str) -> str:
    """Name in the UNet2DConditionModel (`decoder.`) or UnCLIPTextProjModel (`text_proj.`) of our tensor."""
    if name == "null_embed":
        return "text_proj.learned_classifier_free_guidance_embeddings"
    part, _, rest = name.removeprefix("network.").partition(".")
    return f"decoder.{unet(rest)}" if part == "unet" else f"text_proj.{_CONDITION[part]}.{rest}"


def upsampler(name: str) -> str:
    """Name in one of the two UNet2DModels of our Upsampler's tensor; `super_res_last` takes the last step."""
    part, _, rest = name.removeprefix("network.").partition(".")
    return f"{'super_res_last' if part == 'expert' else 'super_res_first'}.{unet(rest)}"
