"""Tokenizers of the kinds that occur, trained small, and texts that show how they differ. For make.py and compare.py."""

import json
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + SPACES
QWEN2 = LLAMA3.replace("{1,3}", "")
TIKTOKEN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTIONS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + SPACES
)
DEEPSEEK = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"
    + SPACES
)
NASTY = [
    "", "a", " ", "   ", "\n", "\r\n", "\t", "a\r\nb\r\n\r\nc", "  lead", "trail  ", "a  b   c    d     e",
    "\u00a0nbsp\u00a0 x", "x\u2003y\u3000z", "It's I'm we're they've he'd she'll don't CAN'T WE'RE I'LL 'S 'tis",
    "'s't're've'm'll'd'S'T'RE", "'\u017f '\u212a", "0 12 345 6789 1234567 \u0661\u0662\u0663 \u2167 \u00bd \u00b2",
    "3.14159, -1e10, 0xFF", "😀 👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪", "日本語 漢字かな カタカナ 中文，。！", "한국어 가각",
    "e\u0301 cafe\u0301 A\u030a \u1e9b\u0323 q\u0307\u0323", "\u0958 \u0915\u093c \u1100\u1161\u11a8",
    "\u0001\u0002\u001f\u007f\u0080\u0085x", "<s>", "</s>", "<unk>", "<|im_start|>user hi<|im_end|>", "a <mask> b",
    "a   <mask>   b", "x[R]   y", "[R][R]  ", "word words a word. wordword word", "CAFÉ CAFE\u0301 café", "   x   ",
    "<|endoftext|><|endoftext|>", "\u2581 \u2581\u2581x", "Ġ", "\ufeffBOM", "a\u200db\u200cc", "ÀÉÎ àéî Œœßẞİıǅ",
    "Привет мир", "مرحبا", "हिन्दी में", "foo_bar fooBar FooBAR HTTPServer", "http://example.com/p?q=1&r=2#frag",
    "!!!???...---___", "(a)[b]{c}<d>", "\\n \\t", "\n\n\n  \n \n", " \nx", "<0x41>", "<0x0A>\n", "\U0010ffff\ue000",
    "a" * 40, "\u0345\u0301a\u0301\u0345", "𝒜𝓑 ⓐⒷ①", "the cat saw the other cat; 12345 data, 67 rows",
]  # fmt: skip
ADDED = [
    AddedToken("<|im_start|>", special=True, normalized=False),
    AddedToken("<|im_start|>user", normalized=False),
    AddedToken("<mask>", lstrip=True, special=True, normalized=False),
    AddedToken("[R]", rstrip=True),
    AddedToken("word", single_word=True),
    AddedToken("   ", normalized=False),
    AddedToken("CAFÉ"),
]
# Each takes the white space that another has taken already.
SPACES = [
    AddedToken(" ", lstrip=True, rstrip=True),
    AddedToken("\n", lstrip=True, rstrip=True, normalized=False),
    AddedToken("x", rstrip=True, normalized=False),
    AddedToken("word", lstrip=True, rstrip=True),
]


def random_texts(n, seed=1):
    rng = random.Random(seed)
    pool = [*"aAbBeEsStT'  \n\r\t0123.,!?-_/", *"ſé漢字가😀▁Ġ½ǅʰ", "e\u0301", "\u0301", "\u200d", "\u00a0"]
    pool += ["<s>", "<mask>", "word", "[R]", "CAFÉ", "<|im_start|>", "user", "   ", "\u0f71\u0f72"]
    return ["".join(rng.choice(pool) for _ in range(rng.randint(1, 30))) for _ in range(n)]


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def bytes_of(*steps):
    return pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def over_bytes(texts, size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=size, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    return tokenizer


def over_characters(texts, size):
    """As SentencePiece has them: a sign for the space, byte pieces, pieces of several spaces."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=size, special_tokens=special, limit_alphabet=120, show_progress=False),
    )
    whole = json.loads(tokenizer.to_str())
    vocab, merges = whole["model"]["vocab"], whole["model"]["merges"]
    as_text = merges and isinstance(merges[0], str)
    for n in range(2, 5):
        vocab["▁" * n] = len(vocab)
        pair = ["▁" * (n - 1), "▁"] if n != 4 else ["▁▁", "▁▁"]
        merges.append(" ".join(pair) if as_text else pair)
    whole["added_tokens"] = [token for token in whole["added_tokens"] if not token["content"].startswith("<0x")]
    whole["pre_tokenizer"] = None
    return Tokenizer.from_str(json.dumps(whole))


def template(tokenizer, text):
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>", "<|endoftext|>") if token in text]
    return processors.TemplateProcessing(single=text, pair=text + " $B:1", special_tokens=ids)


def bos_of_bytes(tokenizer):
    around = template(tokenizer, "<|endoftext|> $A")
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), around])


def variants(bytes_base, characters_base):
    """(name, tokenizer) of every kind; those of one base share its pieces."""

    def make(base, split_by=None, normal=None, added=(), model=(), after=None):
        whole = json.loads(base.to_str())
        whole["model"].update(model)
        tokenizer = Tokenizer.from_str(json.dumps(whole))
        if split_by is not None:
            tokenizer.pre_tokenizer = split_by
        if normal is not None:
            tokenizer.normalizer = normal
        for token in added:
            (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
        if after:
            after(tokenizer)
        return tokenizer

    def put(text):
        def after(tokenizer):
            tokenizer.post_processor = template(tokenizer, text)

        return after

    digits, level, sign = pre_tokenizers.Digits, pre_tokenizers.ByteLevel, pre_tokenizers.Metaspace
    b, c = bytes_base, characters_base
    llama2 = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    yield "gpt2", make(b)
    yield "prefix", make(b, level(add_prefix_space=True), added=ADDED)
    yield "llama3", make(b, bytes_of(split(LLAMA3)), model={"ignore_merges": True}, after=bos_of_bytes)
    yield "qwen2", make(b, bytes_of(split(QWEN2)), normalizers.NFC(), ADDED)
    yield "smollm", make(b, pre_tokenizers.Sequence([digits(True), level(add_prefix_space=False)]))
    yield "o200k", make(b, bytes_of(split(O200K)))
    yield "tiktoken", make(b, bytes_of(split(TIKTOKEN, "removed", True)))
    cjk = split("[一-龥぀-ゟ゠-ヿ]+")
    yield "deepseek", make(b, bytes_of(split(r"\p{N}{1,3}"), cjk, split(DEEPSEEK)))
    merged = [split(r"\p{N}", "contiguous"), split(r"\s", "merged_with_next")]
    yield "merged", make(b, bytes_of(*merged, pre_tokenizers.Split("e", "merged_with_previous")))
    yield "digits", make(b, pre_tokenizers.Sequence([level(add_prefix_space=False), digits(False)]))
    yield "llama2", make(c, None, llama2, after=put("<s> $A"))
    yield "llama2_added", make(c, None, llama2, ADDED, after=put("<s> $A </s>"))
    lines = [AddedToken("\n\n", normalized=False), AddedToken("\n", normalized=False)]
    by_space = pre_tokenizers.Split(" ", "merged_with_previous")
    yield "gemma", make(c, by_space, normalizers.Replace(" ", "▁"), lines, after=put("<s> $A"))
    yield "first", make(c, sign(prepend_scheme="first", split=False), None, ADDED)
    yield "always", make(c, sign(prepend_scheme="always"), model={"byte_fallback": False})
    loose = {"byte_fallback": False, "fuse_unk": False}
    yield "never", make(c, sign(prepend_scheme="never"), normalizers.NFC(), ADDED, model=loose)
    yield "spaces", make(b, level(add_prefix_space=True), None, SPACES)
