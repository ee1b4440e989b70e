"""Whether an architecture's output head is its input embedding, where a checkpoint does not say.

Plain data, checked against the installed libraries by
``tests/checkpoints/head/test_tying.py``:

transformers
    The default of ``tie_word_embeddings`` in the configuration of every causal, sequence-to-
    sequence and masked language model of transformers 5.23, which holds where config.json leaves
    it out; untied where the model keeps a head of its own whatever the setting. A model of several
    parts has an entry by its own ``model_type`` and one by that of its language model; an
    architecture whose two defaults disagree, or whose classes do, has none. Besides, some
    architectures that come as code beside the weights.
GGUF
    What llama.cpp's ``load_arch_tensors`` (of mid-2026) does with a file that has no
    ``output.weight``: take ``token_embd.weight``, or refuse the file.
"""

from __future__ import annotations

__all__ = [
    "GGUF_WITHOUT_LANGUAGE_HEAD",
    "gguf_tied",
    "has_layer_before_head",
    "tied_by_default",
]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TIED = _names(
    """
    albert aya_vision bart bert bert-generation big_bird bigbird_pegasus biogpt blenderbot
    blenderbot-small blip blip-2 blip_text_model bloom camembert canary canary_decoder cohere
    cohere2 cohere2_moe cohere2_vision cohere_compass_text colpali convbert ctrl data2vec-text
    deberta deberta-v2 diffusion_gemma diffusion_gemma_text distilbert electra ernie ernie4_5
    ernie4_5_moe ernie4_5_vl_moe ernie4_5_vl_moe_text esm falcon falcon_mamba flaubert florence2
    fnet fun_asr_nano funnel gemma gemma2 gemma3 gemma3_text gemma3n gemma3n_text gemma4
    gemma4_assistant gemma4_text gemma4_unified gemma4_unified_assistant gemma4_unified_text
    got_ocr2 gpt-sw3 gpt2 gpt_bigcode gpt_neo gpt_neox_japanese granite_docling
    granite_docling_text granite_swa gte hunyuan_vl hunyuan_vl_text ibert instructblip
    instructblipvideo jetmoe jina_embeddings_v3 kosmos-2 kosmos-2.5 kosmos_2_5_text_model
    kosmos_2_text_model layoutlm led lfm2 lfm2_moe lfm2_vl lfm3 lfm3_vl longformer longt5 lxmert
    m2m_100 mamba marian mbart megatron-bert minicpm3 mobilebert modernbert modernbert-decoder
    moonshine mpnet mpt mra mt5 mvp neomme nllb-moe nomic_bert nystromformer openai-gpt opt
    paddleocr_vl paddleocr_vl_text paligemma pegasus pegasus_x pi0 plbart pp_chart2table
    prophetnet qwen3_asr recurrent_gemma roberta roberta-prelayernorm roc_bert roformer
    seamless_m4t seamless_m4t_v2 shieldgemma2 smollm3 speech_to_text speecht5 squeezebert
    starcoder2 switch_transformers t5 t5_gemma_module t5gemma t5gemma2 t5gemma2_decoder tapas
    trocr udop umt5 vaultgemma visual_bert voxtral_realtime voxtral_realtime_text whisper xglm
    xlm xlm-roberta xlm-roberta-xl xlnet xmod yoso youtu zamba zamba2 zaya
    """
)
_UNTIED = _names(
    """
    afmoe apertus arcee aria aria_text audioflamingo3 axk1 axk2 bailing_hybrid bamba beam bitnet
    blt chameleon codegen cohere_asr cosmos3_edge cosmos3_edge_text cosmos3_omni cwm dbrx
    deepseek_ocr2 deepseek_ocr2_text deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 diffllama
    doge dots1 dots3_note dots3_note_text emu3 emu3_text_model esmc eurobert evolla exaone4
    exaone4_5 exaone_moe falcon_h1 fast_vlm flava flava_text_model flex_olmo flint fsmt fuyu git
    glm glm4 glm46v glm4_moe glm4_moe_lite glm4v glm4v_moe glm4v_moe_text glm4v_text glm5_next
    glm5_next_text glm_moe_dsa glm_ocr glm_ocr_text glmga gpt_neox gpt_oss gptj granite
    granite4_vision granite4_vision_text granitemoe granitemoe_swa granitemoehybrid
    granitemoeshared helium hrm_text hunyuan_v1_dense hunyuan_v1_moe hy_v3 hy_v4 hyperclovax
    idefics idefics2 idefics3 inkling2 inkling2_text inkling_mm_model inkling_text internlm3
    iquestcoder jais2 jamba kimi_linear kolibri1 kyutai_speech_to_text laguna llama llama4
    llama4_text llava llava_next llava_next_video llava_onevision longcat_flash mamba2 mellum
    mimo_v2_flash minicpmv4_6 minicpmv4_7 minimax minimax_m2 minimax_m3_vl minimax_m3_vl_text
    ministral ministral3 mistral mistral4 mistral_large4 mistral_large4_text mixtral mllama
    mllama_text_model molmo2 molmo2_text moonshine_streaming moshi muse_glimmer
    muse_glimmer_text muse_spark muse_spark_text musicflamingo nanochat nemo_speechlm nemotron
    nemotron_h nemotron_h_omni olmo olmo2 olmo3 olmo_hybrid olmoe perception_lm persimmon phi
    phi3 phi4_multimodal phimoe pix2struct pix2struct_text_model pp_formulanet
    pp_formulanet_text qianfan_ocr qwen2 qwen2_5_omni qwen2_5_omni_text qwen2_5_vl
    qwen2_5_vl_text qwen2_audio qwen2_moe qwen2_vl qwen2_vl_text qwen3 qwen3_5 qwen3_5_moe
    qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next qwen3_omni_moe_text
    qwen3_omni_moe_thinker qwen3_vl qwen3_vl_moe_text qwen3_vl_text qwen4_exp qwen4_exp_text
    reformer rembert rwkv seed_oss smolvlm solar_open stablelm step3p5 step3p7 ultrabert
    ultravbert unlimited_ocr unlimited_ocr_text vibevoice vibevoice_asr video_llama_3
    video_llava vipllava voxtral xlstm
    """
)
# Architectures whose code lies beside the weights, by the defaults of that code.
_CODE_TIED = frozenset({"RefinedWebModel", "jais", "minicpm", "new"})
_CODE_UNTIED = _names(
    """
    Yi aquila arctic baichuan chatglm deepseek exaone internlm internlm2 kimi_k2
    mixformer-sequential moss orion phi-msft qwen skywork stablelm_epoch xverse
    """
)

GGUF_WITHOUT_LANGUAGE_HEAD = frozenset(
    ("clip", "dflash", "eagle3", "gemma4-assistant", "pockettts", "qwen3tts", "wavtokenizer-dec")
)
"""Architectures of GGUF files for images, sound or drafts: no matrix in them is a head."""

# Encoders whose head for masked tokens is the input embedding after a transformation.
_GGUF_TIED_ENCODERS = _names(
    """
    bert gemma-embedding jina-bert-v2 jina-bert-v3 modern-bert nomic-bert nomic-bert-moe
    """
)
_GGUF_UNTIED_ENCODERS = frozenset({"eurobert", "neo-bert"})
# No output.weight is ever read.
_GGUF_ALWAYS_TIED = _names(
    """
    bitnet cohere2 command-r gemma gemma2 openelm plm
    """
)
# Where output.weight is missing, token_embd.weight serves.
_GGUF_TIED_WITHOUT_OUTPUT = _names(
    """
    afmoe arcee arctic bailingmoe3 bloom chameleon chatglm cogvlm cohere2moe deci deepseek
    deepseek2 deepseek2-ocr deepseek32 dots3note dream ernie4_5 ernie4_5-moe exaone exaone4
    falcon falcon-h1 gemma3 gemma3n gemma4 glm-dsa glm4 glm4moe gpt2 granite granite_swa
    granitehybrid granitemoe graniteswitch grok grovemoe hrm_text hunyuan-dense hunyuan-moe
    hunyuan_vl hy_v3 jais2 jamba laguna lfm2 lfm2moe llada llama llama4 maincoder mamba mamba2
    minicpm minicpm3 minimax-01 mistral3 mistral4 mpt nanbeige nemotron_h nemotron_h_moe olmo
    paddleocr pangu-embedded phi3 plamo2 plamo3 qwen2 qwen2vl qwen3 qwen35 qwen35moe qwen3moe
    qwen3next qwen3vl qwen3vlmoe qwen4exp refact rnd1 seed_oss smallthinker smollm3 spark2_5
    starcoder starcoder2 t5
    """
)
_GGUF_UNTIED = _names(
    """
    apertus arwkv7 baichuan bailingmoe bailingmoe2 codeshell dbrx deepseek4 dots1 exaone-moe
    glm5-next gpt-oss gptj gptneox hy_v4 internlm2 jais kimi-k3 kimi-linear llada-moe maple
    mellum mimo2 minimax-m2 minimax-m3 muse-glimmer nemotron olmo2 olmoe orion phi2 phimoe plamo
    qwen qwen2moe rwkv6 rwkv6qwen2 rwkv7 stablelm step35 talkie xverse
    """
)


# Encoders of transformers, of which the same holds.
_TIED_ENCODERS = _names(
    """
    albert bert big_bird camembert convbert data2vec-text deberta deberta-v2 distilbert electra
    ernie esm fnet gte ibert jina_embeddings_v3 layoutlm longformer megatron-bert mobilebert
    modernbert mpnet mra new nomic_bert nystromformer roberta roberta-prelayernorm roc_bert
    roformer squeezebert tapas xlm-roberta xlm-roberta-xl xmod yoso
    """
)


def has_layer_before_head(architecture: str | None) -> bool:
    """Return whether hidden states pass another layer before the input embedding is their head.

    Parameters
    ----------
    architecture
        As config.json or a GGUF file calls it.
    """
    return architecture in _TIED_ENCODERS | _GGUF_TIED_ENCODERS


def tied_by_default(model_type: str) -> bool | None:
    """Return whether an architecture's head is its input embedding where the config does not say.

    Parameters
    ----------
    model_type
        The architecture as config.json calls it.

    Returns
    -------
    bool or None
        None: unknown.
    """
    if model_type in _TIED or model_type in _CODE_TIED:
        return True
    if model_type in _UNTIED or model_type in _CODE_UNTIED:
        return False
    return None


def gguf_tied(architecture: str, *, pooled: bool = False) -> bool | None:
    """Return whether ``token_embd.weight`` is the head of a GGUF file without ``output.weight``.

    A file made from a model whose head was dropped before looks the same. Such files are of
    embedding models, and most state a ``pooling_type``: of those only the architectures that
    never have a head of their own are tied for sure.

    Parameters
    ----------
    architecture
        The metadata's ``general.architecture``.
    pooled
        Whether the metadata say how states are pooled.

    Returns
    -------
    bool or None
        False: such a file is incomplete, or its head is elsewhere; None: unknown.
    """
    if architecture in _GGUF_ALWAYS_TIED | _GGUF_TIED_ENCODERS:
        return True
    if architecture in _GGUF_TIED_WITHOUT_OUTPUT:
        return not pooled
    untied = _GGUF_UNTIED | _GGUF_UNTIED_ENCODERS | GGUF_WITHOUT_LANGUAGE_HEAD
    return False if architecture in untied else None
