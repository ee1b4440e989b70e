"""What the configurations of transformers' models are shrunk to, and which models need more.

A number of a configuration is replaced by its name, in all sections; what holds between several of
a model (a head's width times the number of heads) holds among the replacements, too.
"""

from __future__ import annotations

from typing import Any

__all__ = ["CHANGES", "CUT", "INDEXES", "NUMBERS", "PER_STAGE", "START", "D", "V"]

# Rows of the head, unlike any other size, and columns.
V, D = 320, 32
_WIDE = 64

_NAMES = {
    V: """
        vocab_size decoder_vocab_size src_vocab_size tgt_vocab_size unpadded_vocab_size
        vocab_size_per_layer_input
        """,
    D: """
        adapter_in_dim adapter_input_size adapter_out_dim attention_hidden_size audio_hidden_size
        backbone_hidden_size base_channels cross_attention_hidden_size cross_hidden_size d_latents
        d_model decoder_hidden_size dim emb_dim embed_dim embedding_dim embedding_size
        encoder_hidden_size entity_emb_size hidden_dim hidden_size hidden_size_global
        hidden_size_per_layer_input image_text_hidden_size image_token_embed_dim input_dim
        input_embedding_size input_size kv_channels lang_embed_dim latent_channels lru_width
        merged_hidden_size n_embd out_hidden_size output_channels output_dim output_embedding_size
        output_hidden_size output_num_channels patch_embed_hidden_size ple_embed_dim
        pooler_hidden_size prediction_head_size projection_dim projection_hidden_size
        projector_input_dim projector_output_dim pronunciation_embed_dim shape_embed_dim
        spkr_embed_dim text_hidden_size thinker_hidden_size true_hidden_size unit_embed_dim
        vector_quantization_hidden_dimension vision_hidden_size vision_output_dim
        visual_embedding_dim word_embed_proj_dim image_size max_image_size min_image_size resolution
        """,
    _WIDE: """
        alignment_intermediate_size d_ff d_inner decoder_dim decoder_ffn_dim
        decoder_intermediate_size dense_intermediate_size dff dim_ff downsample_hidden_size
        encoder_ffn_dim expert_ffn_hidden_size feed_forward_size ffn_dim ffn_hidden_size
        intermediate_size intermediate_size_mlp mamba_d_ssm mlp_dim moe_hidden_size
        moe_intermediate_size moe_shared_expert_intermediate_size projection_hidden_dim
        projection_intermediate_size projector_hidden_size router_hidden_size share_expert_dim
        shared_expert_intermediate_size shared_experts_intermediate_size shared_intermediate_size
        speech_encoder_intermediate_size t2u_decoder_ffn_dim t2u_encoder_ffn_dim
        upsample_initial_channel

        audio_vocab_size char_vocab_size codebook_vocab_size encoder_hash_byte_group_vocab
        entity_vocab_size ngram_vocab_size_base num_embeds pronunciation_vocab_size shape_vocab_size
        t2u_vocab_size unit_hifi_gan_vocab_size

        attention_window attention_window_size context_length max_2d_position_embeddings
        max_decoder_position_embeddings max_encoder_position_embeddings max_length
        max_position_embeddings max_seq_len max_source_positions max_speech_positions
        max_target_positions max_text_positions model_max_length n_ctx n_positions
        num_position_embeddings original_max_position_embeddings position_embedding_size seq_len
        """,
    16: """
        adapter_rank classifier_proj_size codebook_dim codebook_size d_rel embedding_rank
        gated_norm_rank hc_lowrank input_feat_per_channel kv_lora_rank latent_size laurel_rank
        mamba_d_state mamba_dt_rank mel_dim n_mel_bins num_embeddings num_mel_bins o_lora_rank
        q_lora_rank qk_head_dim rel_extent ssm_state_size state_size time_step_rank
        """,
    8: """
        attention_head_dim attention_head_size cross_head_dim d_head d_kv dim_head global_head_dim
        head_dim index_head_dim linear_head_dim linear_key_head_dim linear_value_head_dim
        mamba_d_head mamba_head_dim mamba_headdim mamba_n_heads mamba_num_heads qk_nope_head_dim
        qk_rope_head_dim resampler_dim_head resampler_head_dim rotary_dim swa_head_dim v_head_dim
        """,
    4: """
        attention_heads conf_num_attention_heads cross_num_attention_heads
        cross_num_key_value_heads decoder_attention_heads decoder_num_attention_heads
        encoder_attention_heads encoder_num_attention_heads index_n_heads linear_num_heads
        linear_num_value_heads n_head n_heads n_mamba_heads num_attention_heads
        num_cross_attention_heads num_decoder_attention_heads num_encoder_attention_heads num_heads
        num_query_groups num_self_attention_heads num_sliding_attention_heads resampler_heads
        resampler_n_heads speech_encoder_attention_heads swa_num_attention_heads
        t2u_decoder_attention_heads t2u_encoder_attention_heads

        moe_num_experts n_routed_experts num_experts num_local_experts
        """,
    2: """
        decoder_num_key_value_heads encoder_num_key_value_heads kv_n_heads linear_num_key_heads
        num_key_value_heads num_kv_heads swa_num_key_value_heads

        conf_num_hidden_layers decoder_layers decoder_num_hidden_layers depth encoder_layers
        encoder_num_hidden_layers l_layers layers n_layer n_layers num_blocks num_decoder_layers
        num_encoder_layers num_global_layers num_hidden_layers num_layers num_layers_per_stack
        num_self_attends_per_block r_layers resampler_depth speech_decoder_postnet_layers
        speech_encoder_layers t2u_decoder_layers t2u_encoder_layers x_layers

        moe_k moe_top_k moe_topk num_experts_per_tok num_experts_per_token num_filters
        """,
    1: """
        first_k_dense_replace mamba_n_groups mamba_ngroups moe_layer_start_index
        moe_num_shared_experts n_group n_groups n_shared_experts num_dense_layers num_expert_group
        num_shared_experts o_groups topk_group zero_expert_num
        """,
    0: "num_kv_shared_layers",
}  # fmt: skip
NUMBERS = {name: value for value, names in _NAMES.items() for name in names.split()}
"""The most that a number is, by its name."""

CUT = frozenset(
    """
    activation_sparsity_pattern attention_layers attn_layers block_types indexer_types
    layer_rope_theta layer_types layers_block_type mlp_layer_types no_rope_layers
    num_attention_heads_per_layer sliding_windows
    """.split()  # noqa: SIM905
)
"""Lists with an entry for each layer, of which the first and the last are kept."""

INDEXES = frozenset(
    """
    cross_attention_layers deepstack_visual_indexes full_attn_idxs fullatt_block_indexes
    global_attn_indexes hybrid_layer_ids intermediate_layers_indices kv_source_layers
    look_ahead_layers look_backward_layers moe_layers rope_scaling_layers
    """.split()  # noqa: SIM905
)
"""Lists of layers, of which the last is kept."""

PER_STAGE = {
    "channel_multiplier": 1,
    "depths": 1,
    "downsample_channels": D,
    "hidden_sizes": D,
    "image_size": D,
}
"""Lists with a number for each of several parts, and what each becomes."""

_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_MROPE = {"full_attention": {**_ROPE, "mrope_section": [2, 1, 1]}}
_VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": D,
    "intermediate_size": _WIDE,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "image_size": D,
    "patch_size": 16,
}
_AXIAL = {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [8, 8]}
_LINEAR = ["linear_attention", "linear_attention"]
_KV_4 = {"num_key_value_heads": 4}

START: dict[str, dict[str, Any]] = {
    "Gemma4AssistantForCausalLM": {
        "text_config": {
            "model_type": "gemma4_text",
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 0,
        },
    },
}
"""What a configuration needs to be made at all, before it is shrunk."""

CHANGES: dict[str, dict[str, Any]] = {
    "ChameleonForConditionalGeneration": {"vocabulary_map": {"<image>": 7}},
    "CohereCompassForCausalLM": {"rope_parameters": _MROPE},
    "CohereCompassForConditionalGeneration": {"text_config": {"rope_parameters": _MROPE}},
    "Cosmos3EdgeForConditionalGeneration": {
        "text_config": {"rope_parameters": {"mrope_section": [2, 1, 1]}}
    },
    "DbrxForCausalLM": {"attn_config": {"rope_theta": 10000.0}},
    "DeepseekOcr2ForConditionalGeneration": {
        "text_config": {"mlp_layer_types": ["dense", "sparse"], "num_experts_per_tok": 2}
    },
    "DiffusionGemmaForBlockDiffusion": {
        "text_config": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": _WIDE}
    },
    "Dots1ForCausalLM": {"n_routed_experts": 4, "n_shared_experts": 1},
    "Dots3NoteForCausalLM": _KV_4,
    "Dots3NoteForConditionalGeneration": {"text_config": _KV_4},
    "Emu3ForConditionalGeneration": {"vocabulary_map": {"<image>": 7, "<|extra_200|>": 8}},
    "Ernie4_5_VLMoeForConditionalGeneration": {
        "text_config": {"rope_parameters": {**_ROPE, "mrope_section": [1, 1, 2]}}
    },
    "EsmForMaskedLM": {"vocab_size": V, "mask_token_id": 4, "pad_token_id": 1},
    "EsmcForMaskedLM": _KV_4,
    "FastVlmForConditionalGeneration": {"vision_config": _VISION},
    "Florence2ForConditionalGeneration": {
        "vision_config": {"embed_dim": [4] * 4, "num_heads": [4] * 4, "num_groups": [4] * 4}
    },
    "FunAsrNanoForConditionalGeneration": {"adaptor_config": {"intermediate_size": D // 4}},
    "Gemma3nForCausalLM": {"intermediate_size": [_WIDE, _WIDE]},
    "Gemma3nForConditionalGeneration": {"text_config": {"intermediate_size": [_WIDE, _WIDE]}},
    "Glm5NextForConditionalGeneration": {"text_config": _KV_4},
    "Granite4VisionForConditionalGeneration": {
        "deepstack_layer_map": [[-1, 0]],
        "downsample_rate": "1/1",
        "vision_config": {"hidden_size": 64},
        "qformer_config": {"hidden_size": 64, "encoder_hidden_size": 64},
    },
    "HunYuanDenseV1ForCausalLM": {"head_dim": 8},
    "HunYuanMoEV1ForCausalLM": {"head_dim": 8},
    "HunYuanVLForConditionalGeneration": {"text_config": {"head_dim": 8}},
    "KyutaiSpeechToTextForConditionalGeneration": {"codec_config": {"upsample_groups": 1}},
    "Lfm2MoeForCausalLM": {"layer_types": ["conv", "full_attention"]},
    "Mamba2ForCausalLM": {"num_heads": 8},
    "MinistralForCausalLM": {"head_dim": 8},
    "MistralLarge4ForConditionalGeneration": {"text_config": {"kv_source_layers": [0, 1]}},
    "Molmo2ForConditionalGeneration": {"adapter_config": {"vision_feature_layer": [-1]}},
    "MoonshineStreamingForConditionalGeneration": _KV_4,
    "MuseSparkForConditionalGeneration": {"audio_config": {"num_hidden_layers": 4}},
    "NemotronForCausalLM": {"num_key_value_heads": 2},
    "NeoMMEForMaskedLM": {"head_dim": 16},
    "Qwen3OmniMoeForConditionalGeneration": {
        "talker_config": {
            "spatial_merge_size": 2,
            "text_config": {"shared_expert_intermediate_size": _WIDE},
        }
    },
    "Qwen4ExpForCausalLM": {"layer_types": _LINEAR},
    "Qwen4ExpForConditionalGeneration": {"text_config": {"layer_types": _LINEAR}},
    "ReformerForMaskedLM": _AXIAL,
    "ReformerModelWithLMHead": {"is_decoder": True, **_AXIAL},
}
"""What is set after the shrinking, by the model's class."""
