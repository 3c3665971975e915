"""Small random models of each family, and data for them."""

import torch
import transformers

VOCABULARY = 97
HIDDEN = 32


def _decoder(config, **extra):
    return config(
        hidden_size=HIDDEN,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        pad_token_id=0,
        **extra,
    )


def _gpt2():
    return transformers.GPT2Config(
        n_embd=HIDDEN, n_layer=4, n_head=4, n_positions=64, vocab_size=VOCABULARY, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0,
    )  # fmt: skip


CONFIGS = {
    "llama": lambda: _decoder(transformers.LlamaConfig, tie_word_embeddings=False),
    "qwen2": lambda: _decoder(transformers.Qwen2Config, tie_word_embeddings=True),
    "mistral": lambda: _decoder(transformers.MistralConfig, tie_word_embeddings=False),
    "gemma2": lambda: _decoder(transformers.Gemma2Config, head_dim=8, tie_word_embeddings=True),
    "gpt2": _gpt2,
}
FAMILIES = sorted(CONFIGS)
#: Matrices that LoRA sits on.
TARGETS = {name: ["q_proj", "v_proj", "down_proj"] for name in FAMILIES} | {"gpt2": ["c_attn", "mlp.c_proj"]}


def make_model(family, seed=0):
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[family]())
    with torch.no_grad():  # random norms and biases, so that one that is left out is seen
        for name, parameter in model.named_parameters():
            if "norm" in name or "ln_" in name or name.endswith("bias"):
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.train()


def add_lora(model, family, dropout=0.0):
    import peft

    config = peft.LoraConfig(r=4, target_modules=TARGETS[family], task_type="CAUSAL_LM", lora_dropout=dropout)
    wrapped = peft.get_peft_model(model, config)
    with torch.no_grad():  # B is zero at first, and A would have no gradient
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return wrapped


def make_batch(rows=6, tokens=9, seed=1):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCABULARY, (rows, tokens), generator=generator)
    labels = torch.full_like(ids, -100)
    for row in range(rows):
        at = 3 + row % (tokens - 3)
        labels[row, at] = ids[row, at]
    return ids, labels


class Items(torch.utils.data.Dataset):
    """Prompts with the token that should come next."""

    def __init__(self, count=40, tokens=8, seed=3):
        generator = torch.Generator().manual_seed(seed)
        self.ids = torch.randint(1, VOCABULARY, (count, tokens), generator=generator)

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        labels = torch.full_like(self.ids[index], -100)
        labels[-1] = self.ids[index, 0] % 5
        return {"input_ids": self.ids[index], "labels": labels}
