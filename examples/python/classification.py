"""Text classification as next-token prediction: data folders, prompts, label words, tokenizers, macro F1.

A folder holds labels.txt, train.tsv and test.tsv (label, text and perhaps a second text, tab-separated) and, where it
likes, template.txt and words.txt. A class is predicted as the next token after the prompt: the first token of its word.
"""

import pathlib
import re
import struct

import torch

TEMPLATES = {
    "trec": "{text} It is about a",
    "sst5": "{text} It was",
    "mrpc": "{text} {text2} The two are",
    "webss": "{text} It is about",
    "carer": "{text} I feel",
}
WORDS = {
    "trec": {"DESC": "why", "ENTY": "thing", "ABBR": "letters", "HUM": "person", "LOC": "place", "NUM": "number"},
    "sst5": {
        "very negative": "terrible", "negative": "bad", "neutral": "okay", "positive": "good",
        "very positive": "wonderful",
    },
    "mrpc": {"not_equivalent": "different", "equivalent": "same"},
    "webss": {
        "business": "money", "computers": "computers", "culture-arts-entertainment": "art",
        "education-science": "school", "engineering": "engines", "health": "doctors", "politics-society": "kings",
        "sports": "games",
    },
    "carer": {
        "sadness": "sad", "joy": "happy", "love": "love", "anger": "angry", "fear": "fear", "surprise": "surprised",
    },
}  # fmt: skip


class BinTokenizer:
    """The tokenizer of a .bin file: byte pairs merged in order of their score (see docs/formats.md)."""

    def __init__(self, path):
        data = pathlib.Path(path).read_bytes()
        at, self.pieces, self.scores = 4, [], []
        while at < len(data):
            score, length = struct.unpack_from("<fi", data, at)
            if length < 0 or at + 8 + length > len(data):
                raise ValueError(f"{path}: ends inside piece {len(self.pieces)}")
            self.pieces.append(data[at + 8 : at + 8 + length])
            self.scores.append(score)
            at += 8 + length
        self.ids = {}
        for index, piece in enumerate(self.pieces[3:], 3):  # the three special pieces are never made from text
            self.ids.setdefault(piece, index)
        self.first_byte = self.ids.get(b"<0x00>")

    def encode(self, text):
        """Ids of a text, with the start token."""
        ids = [1]
        if not text:
            return ids
        ids += self._merged(self._characters(" " + text))
        return ids

    def first_id(self, word):
        """The token with which a word begins."""
        ids = self.encode(word)[1:]
        lone_space = len(ids) > 1 and self.pieces[ids[0]] == b" "
        return ids[1 if lone_space else 0]

    def _characters(self, text):
        found = []
        for character in text:
            data = character.encode()
            if data in self.ids:
                found.append(self.ids[data])
            elif self.first_byte is not None:
                found += [self.first_byte + byte for byte in data]
            elif not found or found[-1] != 0:
                found.append(0)
        return found

    def _merged(self, ids):
        while True:
            best, at, joined = None, -1, None
            for i, (a, b) in enumerate(zip(ids, ids[1:])):
                pair = self.ids.get(self.pieces[a] + self.pieces[b]) if a and b else None
                if pair is not None and (best is None or self.scores[pair] > best):
                    best, at, joined = self.scores[pair], i, pair
            if joined is None:
                return ids
            ids[at : at + 2] = [joined]


class HubTokenizer:
    """A tokenizer of transformers, by the same two questions."""

    def __init__(self, folder):
        import transformers

        self.inner = transformers.AutoTokenizer.from_pretrained(folder)
        # What it puts behind every text, such as an end token, has no place behind a prompt, which goes on.
        whole, bare = (self.inner("a", add_special_tokens=special)["input_ids"] for special in (True, False))
        begins = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        self.behind = len(whole) - begins - len(bare)

    def encode(self, text):
        ids = self.inner(text)["input_ids"]
        return ids[: len(ids) - self.behind]

    def first_id(self, word):
        ids = self.inner(" " + word, add_special_tokens=False)["input_ids"]
        lone_space = len(ids) > 1 and not self.inner.decode(ids[:1]).strip()
        return ids[1 if lone_space else 0]


def open_tokenizer(model, given=None):
    """The tokenizer given, or the one beside the model."""
    if given:
        return BinTokenizer(given)
    found = sorted(pathlib.Path(model).glob("tok*.bin"))
    return BinTokenizer(found[0]) if found else HubTokenizer(model)


class Task:
    """A folder's data as prompts and label tokens. A prompt too long for the model keeps its end."""

    def __init__(self, folder, tokenizer, template=None):
        folder = pathlib.Path(folder)
        self.name, self.tokenizer = folder.name, tokenizer
        self.classes = folder.joinpath("labels.txt").read_text(encoding="utf-8").splitlines()
        self.template = template or self._template(folder)
        unknown = set(re.findall(r"\{(\w+)\}", self.template)) - {"text", "text2"}
        if unknown or "{text}" not in self.template or self.template.endswith(" "):
            raise ValueError(f"template {self.template!r} needs {{text}}, has no field but that and {{text2}}, and no "
                             "space at its end, as the label's word brings one")  # fmt: skip
        words = self._words(folder)
        self.label_tokens = [tokenizer.first_id(words.get(name, name)) for name in self.classes]
        if len(set(self.label_tokens)) < len(self.classes):
            raise ValueError(f"{folder}: words of two classes begin with one token: {words}")
        self.folder = folder

    def _template(self, folder):
        own = folder / "template.txt"
        if own.exists():
            return own.read_text(encoding="utf-8").splitlines()[0]
        return TEMPLATES.get(folder.name, "{text} {text2} It is about a")

    def _words(self, folder):
        own = folder / "words.txt"
        if own.exists():
            return dict(line.split("\t", 1) for line in own.read_text(encoding="utf-8").splitlines())
        return WORDS.get(folder.name, {})

    def prompt(self, text, text2=None):
        """The template with the texts put in."""
        if text2 is not None and "{text2}" not in self.template:
            raise ValueError(f"template {self.template!r} has no {{text2}}, but {text!r} has a second text")
        filled = self.template if text2 else self.template.replace(" {text2}", "").replace("{text2}", "")
        texts = {"{text}": text, "{text2}": text2}  # in one pass: a text may hold the name of a field
        return re.sub(r"\{text2?\}", lambda found: texts[found[0]], filled)

    def read(self, split, limit=None, longest=None):
        """Items of a split, at most limit of them, spread evenly."""
        # Not splitlines(), which ends lines at a dozen other characters too.
        with self.folder.joinpath(f"{split}.tsv").open(encoding="utf-8", newline="\n") as file:
            rows = [row.rstrip("\r\n") for row in file]
        if limit and limit < len(rows):
            rows = [rows[i * len(rows) // limit] for i in range(limit)]
        items = []
        for number, row in enumerate(rows, 1):
            label, *texts = row.split("\t")
            if label not in self.classes or not 1 <= len(texts) <= 2:
                raise ValueError(f"{self.folder}/{split}.tsv:{number}: not label, text and perhaps a second text")
            items.append((self.tokenizer.encode(self.prompt(*texts))[-longest if longest else None :], label))
        return Items(items, self)


class Items(torch.utils.data.Dataset):
    """Prompts, each with its class's token as the only target behind it."""

    def __init__(self, items, task):
        self.classes = [task.classes.index(label) for _, label in items]
        self.prompts = [ids for ids, _ in items]
        self.targets = [task.label_tokens[c] for c in self.classes]

    def __len__(self):
        return len(self.prompts)

    def __getitem__(self, index):
        prompt = self.prompts[index]
        return {"input_ids": [*prompt, self.targets[index]], "labels": [-100] * len(prompt) + [self.targets[index]]}


def collate(items):
    """Pads a batch on the right."""
    longest = max(len(item["input_ids"]) for item in items)

    def padded(key, value):
        return torch.tensor([item[key] + [value] * (longest - len(item[key])) for item in items])

    mask = torch.tensor([[1] * len(i["input_ids"]) + [0] * (longest - len(i["input_ids"])) for i in items])
    return {"input_ids": padded("input_ids", 0), "labels": padded("labels", -100), "attention_mask": mask}


@torch.no_grad()
def predict(model, items, label_tokens, batch=64):
    """The class of each item: the label token with the largest logit after the prompt."""
    model.eval()
    device, found = next(model.parameters()).device, []
    for first in range(0, len(items), batch):
        inputs = collate([items[i] for i in range(first, min(first + batch, len(items)))])
        ends = inputs["attention_mask"].sum(1) - 2
        logits = model(
            input_ids=inputs["input_ids"].to(device), attention_mask=inputs["attention_mask"].to(device)
        ).logits
        rows = logits[torch.arange(len(ends)), ends.to(device)][:, label_tokens]
        found += rows.argmax(1).tolist()
    return found


def scores(truth, predicted, n_classes):
    """Macro F1 over the classes that occur, accuracy, and the confusion table with a last column for none."""
    table = [[0] * (n_classes + 1) for _ in range(n_classes)]
    for t, p in zip(truth, predicted):
        table[t][p] += 1
    each = []
    for c in range(n_classes):
        seen = sum(table[c]) + sum(row[c] for row in table)
        if seen:
            each.append(2 * table[c][c] / seen)
    accuracy = sum(t == p for t, p in zip(truth, predicted)) / max(len(truth), 1)
    return sum(each) / max(len(each), 1), accuracy, table
