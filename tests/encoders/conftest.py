"""Tiny BERT-type models with random weights, saved to disk as a hub model would lie there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

TEXT = """a the of with no and patient woman man year old clear cell renal carcinoma stage pain
fever cough lung left right opacity effusion pneumonia kidney mass grade history smoking age sex"""
WORDS = TEXT.split()


def save_tiny(folder: Path, *, seed: int = 0, kind: str = "bert") -> Path:
    """A 2-layer model of width 32 and window 40, with a word-level tokenizer of its own."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    vocab = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=40,
    ).save_pretrained(folder)
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(vocab),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=42,
        pad_token_id=0,
    )
    AutoModel.from_config(config).save_pretrained(folder)
    return folder


def save_tiny_llama(
    folder: Path, *, seed: int = 0, kind: str = "llama", end: str | None = None
) -> Path:
    """A 2-layer causal decoder of width 32, with a word-level tokenizer of its own.

    Args:
        kind: model type of transformers.
        end: the tokenizer puts this token behind every text (Qwen3-Embedding's way); default: it
            puts <s> before it (LLaMA's way).
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    specials = ["<unk>", "<s>", "</s>", "<|endoftext|>"]
    vocab = {w: i for i, w in enumerate([*specials, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    around = f"$A {end}" if end else "<s> $A"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=around, special_tokens=[(end or "<s>", vocab[end or "<s>"])]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<|endoftext|>" if end else None,
        padding_side="left",
    ).save_pretrained(folder)
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(vocab),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        pad_token_id=3,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.2,  # states that differ between tokens, as a trained model's
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose window is 40 tokens."""
    return save_tiny(tmp_path_factory.mktemp("tiny"))
