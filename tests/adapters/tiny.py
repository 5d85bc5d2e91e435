# SPDX-License-Identifier: Apache-2.0
"""Whole diffusers pipelines with tiny random weights, built in code: no downloads, the same for one seed.

Each runs end to end as a plain pipeline, and `save_pretrained` then `from_pretrained` brings it back. Their
VAEs keep the real scale factor of 8 between pixels and latents, and the networks take latents of any size.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import diffusers
import torch
import transformers
from diffusers.pipelines.stable_audio import StableAudioProjectionModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WIDTH = 16  # of the text encoders
CLIP_LENGTH = 16
T5_LENGTH = 12
LATENT = 8  # latent rows and columns that the image networks say they were trained on


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Weights drawn inside depend on the seed alone; the caller's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def clip_tokenizer() -> transformers.CLIPTokenizer:
    """A CLIP tokenizer that spells words letter by letter, up to 16 tokens."""
    letters = string.ascii_lowercase + string.digits + ",.'-"
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    vocab = {token: row for row, token in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return transformers.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=CLIP_LENGTH)


def t5_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A tokenizer of single letters that pads and ends as T5's do, up to 12 tokens."""
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocab += [(letter, -3.0) for letter in string.ascii_lowercase]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=2, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        model_max_length=T5_LENGTH,
    )


def clip_text(tokenizer: Any, *, width: int = WIDTH, projection: bool = False) -> torch.nn.Module:
    """A CLIP text encoder of two layers for the tokens of `clip_tokenizer`."""
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CLIP_LENGTH,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return kind(config).eval()


def t5_text(tokenizer: Any, *, width: int = WIDTH, umt5: bool = False) -> torch.nn.Module:
    """A T5 or UMT5 encoder of two layers for the tokens of `t5_tokenizer`."""
    config = (transformers.UMT5Config if umt5 else transformers.T5Config)(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=width // 2,
        d_ff=2 * width,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
    )
    return (transformers.UMT5EncoderModel if umt5 else transformers.T5EncoderModel)(config).eval()


def image_vae(channels: int, *, scale: float, shift: float | None = None) -> diffusers.AutoencoderKL:
    """A VAE of four levels, so that one latent element is 8x8 pixels."""
    return diffusers.AutoencoderKL(
        block_out_channels=(4, 4, 8, 8),
        norm_num_groups=2,
        latent_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        sample_size=8 * LATENT,
        scaling_factor=scale,
        shift_factor=shift,
        use_quant_conv=shift is None,
        use_post_quant_conv=shift is None,
    ).eval()


def ddim(prediction: str = "epsilon") -> diffusers.DDIMScheduler:
    """Stable Diffusion's noise schedule in a DDIM scheduler."""
    return diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
    )


def stable_diffusion(seed: int = 0, *, prediction: str = "epsilon") -> diffusers.StableDiffusionPipeline:
    """Stable Diffusion 1.x (or 2.x with `prediction="v_prediction"`): latents [B, 4, H/8, W/8]."""
    with seeded(seed):
        tokenizer = clip_tokenizer()
        unet = diffusers.UNet2DConditionModel(
            sample_size=LATENT,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            layers_per_block=1,
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )
        return quiet(
            diffusers.StableDiffusionPipeline(
                vae=image_vae(4, scale=0.18215),
                text_encoder=clip_text(tokenizer),
                tokenizer=tokenizer,
                unet=unet.eval(),
                scheduler=ddim(prediction),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
        )


def stable_diffusion_xl(seed: int = 0) -> diffusers.StableDiffusionXLPipeline:
    """Stable Diffusion XL with both text encoders and micro-conditioning: latents [B, 4, H/8, W/8]."""
    with seeded(seed):
        tokenizer = clip_tokenizer()
        unet = diffusers.UNet2DConditionModel(
            sample_size=LATENT,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            layers_per_block=1,
            cross_attention_dim=2 * WIDTH,
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            transformer_layers_per_block=(1, 1),
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + WIDTH,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        )
        return quiet(
            diffusers.StableDiffusionXLPipeline(
                vae=image_vae(4, scale=0.13025),
                text_encoder=clip_text(tokenizer),
                text_encoder_2=clip_text(tokenizer, projection=True),
                tokenizer=tokenizer,
                tokenizer_2=clip_tokenizer(),
                unet=unet.eval(),
                scheduler=diffusers.EulerDiscreteScheduler.from_config(ddim().config),
                add_watermarker=False,
            )
        )


def stable_diffusion_3(
    seed: int = 0, *, dynamic_shifting: bool = False
) -> diffusers.StableDiffusion3Pipeline:
    """Stable Diffusion 3 with its three text encoders: latents [B, 4, H/8, W/8] in 2x2 tokens."""
    with seeded(seed):
        clip, t5 = clip_tokenizer(), t5_tokenizer()
        transformer = diffusers.SD3Transformer2DModel(
            sample_size=LATENT,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=2 * WIDTH,
            caption_projection_dim=16,
            pooled_projection_dim=2 * WIDTH,
            pos_embed_max_size=16,
        )
        return quiet(
            diffusers.StableDiffusion3Pipeline(
                transformer=trained(transformer),
                scheduler=flow_euler(shift=3.0, use_dynamic_shifting=dynamic_shifting),
                vae=image_vae(4, scale=1.5305, shift=0.0609),
                text_encoder=clip_text(clip, projection=True),
                tokenizer=clip,
                text_encoder_2=clip_text(clip, projection=True),
                tokenizer_2=clip_tokenizer(),
                text_encoder_3=t5_text(t5, width=2 * WIDTH),
                tokenizer_3=t5,
            )
        )


def flux(seed: int = 0, *, guidance_embeds: bool = True) -> diffusers.FluxPipeline:
    """FLUX.1 dev (or schnell with `guidance_embeds=False`): canvas [B, 4, H/8, W/8] in 2x2 tokens."""
    with seeded(seed):
        clip, t5 = clip_tokenizer(), t5_tokenizer()
        transformer = diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=(4, 6, 6),
        )
        pipe = quiet(
            diffusers.FluxPipeline(
                scheduler=flow_euler(shift=3.0, use_dynamic_shifting=True),
                vae=image_vae(4, scale=0.3611, shift=0.1159),
                text_encoder=clip_text(clip),
                tokenizer=clip,
                text_encoder_2=t5_text(t5),
                tokenizer_2=t5,
                transformer=trained(transformer),
            )
        )
        pipe.default_sample_size = LATENT
        return pipe


def stable_audio(seed: int = 0) -> diffusers.StableAudioPipeline:
    """Stable Audio Open at 400 Hz with 32 latents of 4 channels, 16 samples each: 1.28 s in stereo."""
    with seeded(seed):
        tokenizer = t5_tokenizer()
        transformer = diffusers.StableAudioDiTModel(
            sample_size=32,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            num_key_value_attention_heads=1,
            cross_attention_dim=16,
            time_proj_dim=8,
            global_states_input_dim=2 * WIDTH,
            cross_attention_input_dim=WIDTH,
        )
        vae = diffusers.AutoencoderOobleck(
            encoder_hidden_size=8,
            downsampling_ratios=[2, 2, 4],
            channel_multiples=[1, 2, 2],
            decoder_channels=4,
            decoder_input_channels=4,
            audio_channels=2,
            sampling_rate=400,
        )
        projection = StableAudioProjectionModel(
            text_encoder_dim=WIDTH, conditioning_dim=WIDTH, min_value=0, max_value=8
        )
        scheduler = diffusers.EDMDPMSolverMultistepScheduler(
            solver_order=2, prediction_type="v_prediction", sigma_data=1.0, sigma_schedule="exponential"
        )
        return quiet(
            diffusers.StableAudioPipeline(
                vae=vae.eval(),
                text_encoder=t5_text(tokenizer),
                projection_model=projection.eval(),
                tokenizer=tokenizer,
                transformer=trained(transformer),
                scheduler=scheduler,
            )
        )


def wan(seed: int = 0) -> diffusers.WanPipeline:
    """Wan 2.1 text to video: latents [B, 4, 1 + (F-1)/4, H/8, W/8] in 1x2x2 tokens."""
    with seeded(seed):
        tokenizer = t5_tokenizer()
        transformer = diffusers.WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=WIDTH,
            freq_dim=16,
            ffn_dim=32,
            num_layers=2,
            rope_max_seq_len=32,
        )
        vae = diffusers.AutoencoderKLWan(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[-0.7, 0.1, 0.4, -0.2],
            latents_std=[2.8, 1.5, 2.3, 1.9],
        )
        scheduler = diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        )
        return quiet(
            diffusers.WanPipeline(
                tokenizer=tokenizer,
                text_encoder=t5_text(tokenizer, umt5=True),
                vae=vae.eval(),
                scheduler=scheduler,
                transformer=trained(transformer),
            )
        )


def flow_euler(*, shift: float, use_dynamic_shifting: bool) -> diffusers.FlowMatchEulerDiscreteScheduler:
    """The rectified flow scheduler of Stable Diffusion 3 and FLUX."""
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=shift, use_dynamic_shifting=use_dynamic_shifting)


def trained(network: torch.nn.Module) -> torch.nn.Module:
    """The network with no weight left at zero, as if training had moved those that start there."""
    with torch.no_grad():
        for weight in network.parameters():
            if weight.abs().sum() == 0:
                weight.normal_(std=0.05)
    return network.eval()


def quiet(pipe: Any) -> Any:
    """The pipeline without a progress bar."""
    pipe.set_progress_bar_config(disable=True)
    return pipe


BUILDERS: dict[str, Callable[[], Any]] = {
    "stable_diffusion": stable_diffusion,
    "stable_diffusion_xl": stable_diffusion_xl,
    "stable_diffusion_3": stable_diffusion_3,
    "flux": flux,
    "stable_audio": stable_audio,
    "wan": wan,
}
