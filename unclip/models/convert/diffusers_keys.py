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
# U-Net: layers outside of the blocks, the middle, the kinds of block of a level, and its resampler.
_AROUND = {"time": "time_embedding", "conv_in": "conv_in", "norm": "conv_norm_out", "conv_out": "conv_out"}
_MIDDLE = {"middle_1": "resnets.0", "middle_attention": "attentions.0", "middle_2": "resnets.1"}
_BESIDE = {"blocks": "resnets", "attention": "attentions"}
_RESAMPLER = {"down": "downsamplers.0", "up": "upsamplers.0"}

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
# CLIP's text encoder: transformer block, as transformers names it.
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
    *path, leaf, kind = name.split(".")
    head = path[0] if path else leaf
    if head in _AROUND:
        return ".".join([_AROUND[head], *path[1:], *([leaf] if path else []), kind])
    if head in _MIDDLE:
        table = _ATTENTION if head == "middle_attention" else _RESIDUAL
        return f"mid_block.{_MIDDLE[head]}.{table[leaf]}.{kind}"
    level = f"{head}_blocks.{path[1]}"
    if path[2] == "resampler":
        return f"{level}.{_RESAMPLER[head]}.{_RESIDUAL[leaf]}.{kind}"
    table = _ATTENTION if path[2] == "attention" else _RESIDUAL
    return f"{level}.{_BESIDE[path[2]]}.{path[3]}.{table[leaf]}.{kind}"


def prior(name: str) -> str:
    """Name in a PriorTransformer of our Prior's tensor, prefixed with the component `prior.`."""
    if name in ("mean", "std"):
        return f"prior.clip_{name}"
    path = name.removeprefix("network.").split(".")
    if path[0] != "body":
        return ".".join(["prior", _PRIOR[path[0]], *path[1:]])
    if path[1] == "norm":
        return f"prior.norm_out.{path[2]}"
    return f"prior.transformer_blocks.{path[2]}.{_BLOCK[path[3]]}.{path[4]}"


def text_tower(name: str) -> str:
    """Name in a CLIPTextModelWithProjection of our TextTower's tensor."""
    path = name.removeprefix("encoder.").split(".")
    if path[0] == "projection":
        return "text_projection.weight"
    if path[0] != "body":
        return {
            "tokens": "text_model.embeddings.token_embedding",
            "positions": "text_model.embeddings.position_embedding",
        }[path[0]] + ".weight"
    if path[1] == "norm":
        return f"text_model.final_layer_norm.{path[2]}"
    return f"text_model.encoder.layers.{path[2]}.{_TEXT[path[3]]}.{path[4]}"


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
