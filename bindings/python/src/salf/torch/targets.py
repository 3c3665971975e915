"""Which tokens of a batch are probed, and what counts as one datum.

A row is a position with the token that should come next. Where a datum has one target (the paper's classification) it
is the row; where it has many, rows are chosen by a policy and their deviations averaged, so that a datum has one trace.
Data of a packed or padding-free batch are its documents: told apart by positions that start again, by cu_seqlens, or by
an attention mask that numbers them. No target of one document is looked for in the state of another.

Rows that tell nothing are refused. With labels = input_ids the first target is the text's second token, predicted from
the state of the first, which is the same for all data.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, Mapping, Optional, Tuple

import numpy
import torch

import salf
from salf import _arrays

_log = logging.getLogger("salf")

CHOICES = "'first_target', 'last', 'random:k' (k targets of each datum), 'all', 'per_turn', 'per_document', 'pairs'"
# Targets of a datum that are looked at where it has many and nothing is said: the mean of 8 has a third of one's noise.
_SAMPLE = 8
# Names of the places where documents begin, [documents + 1], in a batch that is one long row.
_OFFSETS = ("cu_seq_lens_q", "cu_seqlens_q", "cu_seq_lens", "cu_seqlens")
# Data after which rows that are all alike are no accident. One class among balanced two would do it once in 2^31.
_ALIKE, _AT_START = 32, 4


class Rows:
    """Which rows of a batch are probed: positions of the tokens, with the right next tokens.

    data says to which row of the batch each belongs. units: which datum of the trace it counts for, numbers from 0 in
    the order of the data; by default the rows of one row of the batch are one datum.
    """

    def __init__(self, positions: Any, tokens: Any, data: Any = None, units: Any = None) -> None:
        self.positions = whole(positions, "positions")
        self.tokens = whole(tokens, "tokens", "int32")
        count = len(self.positions)
        self.data = numpy.arange(count, dtype=numpy.int64) if data is None else whole(data, "data")
        if not (self.positions.shape == self.tokens.shape == self.data.shape == (count,)):
            raise ValueError(
                f"positions {self.positions.shape}, tokens {self.tokens.shape} and data {self.data.shape} "
                "must be vectors of one length"
            )
        for name, numbers in (("positions", self.positions), ("data", self.data)):
            if count and int(numbers.min()) < 0:  # in a batch laid flat it would be a token of the datum before
                raise ValueError(f"{name} hold {int(numbers.min())}; they count from 0, not from the end")
        named = self.data if units is None else whole(units, "units")
        if named.shape != (count,):
            raise ValueError(f"units have shape {named.shape} for {count} rows")
        known, first, self.units = numpy.unique(named, return_index=True, return_inverse=True)
        self.n_units = len(known)
        self.pairs = False  # whether a datum has a second row in the batch, which must not be cut elsewhere
        self._first = first

    def __len__(self) -> int:
        return len(self.positions)

    @classmethod
    def from_labels(cls, labels: Any, ignore: int = -100) -> Rows:
        """From the labels of a causal language model [batch, tokens], where ignore marks what has no target.

        The row of a datum is the one before its first target: the last token of the prompt. Data without a target are
        left out.
        """
        return RowPolicy("first_target").rows(labels, {}, ignore)

    def data_of_units(self) -> Any:
        """The row of the batch that each datum lies in."""
        return self.data[self._first]

    def groups(self) -> Any:
        """What data compete within, for plans: those with one target the same token. Data of many targets have no
        label, and all compete."""
        alone = self.n_units == len(self)
        return self.tokens[self._first] if alone else numpy.zeros(self.n_units, dtype=numpy.int32)

    def by_row(self) -> Rows:
        """The same rows with one datum for each row of the batch."""
        return Rows(self.positions, self.tokens, self.data)

    def averaged(self, trace: salf.Trace, rule: str, nonfinite: str) -> salf.Trace:
        """The trace of the data, from that of the rows."""
        if self.n_units == len(self) and bool((self.units == numpy.arange(len(self))).all()):
            return trace
        total = numpy.zeros((self.n_units, trace.deviations.shape[1]))
        numpy.add.at(total, self.units, trace.deviations)
        mean = total / numpy.bincount(self.units, minlength=self.n_units)[:, None]
        found = salf.Trace.from_deviations(mean, rule, nonfinite)
        return dataclasses.replace(found, n_nonfinite=int((~numpy.isfinite(mean)).any(axis=1).sum()))


def host(values: Any) -> Any:
    """As an array of NumPy."""
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().numpy()
    _arrays.check_unmasked(values, "an array")
    return numpy.asarray(values)


def whole(values: Any, name: str, dtype: str = "int64") -> Any:
    """A vector of whole numbers; what is none, or does not fit the type, is an error and is not rounded to it."""
    return _arrays.whole_numbers(host(values), name, dtype)[2]


class RowPolicy:
    """Chooses rows from labels [batch, tokens].

    word: "first_target"; "last"; "random:k", k targets of each datum, drawn by its content and the seed, the same ones
    whenever it comes again; "all"; "per_turn", the first target behind each masked stretch; "per_document", the first
    of each document of a packed batch; "pairs", for preferences: the batch holds the chosen answers, then the rejected
    ones, and a pair is one datum that is probed at random targets of the chosen. "auto": pairs where the batch shows
    them, the target where each datum has one, else "random:8". Data are documents where the batch shows some.
    """

    def __init__(self, word: str = "auto", seed: int = 0) -> None:
        self.word = word
        kind, _, number = word.partition(":")
        self._kind, self._count, self._seed = kind, _SAMPLE, seed
        known = ("auto", "first_target", "last", "random", "all", "per_turn", "per_document", "pairs")
        if kind not in known or (number != "" and kind != "random"):
            raise ValueError(
                f"rows is {word!r}; known are 'auto', {CHOICES}, or rows of your own, begin(rows=Rows(...))"
            )
        if kind == "random":
            if not number.isdecimal() or int(number) == 0:
                raise ValueError(f"rows is {word!r}; say how many targets of a datum are drawn, such as 'random:8'")
            self._count = int(number)
        self._alike = _Alike(word)

    def rows(self, labels: Any, inputs: Optional[Mapping[str, Any]] = None, ignore: int = -100) -> Rows:
        """The rows of a batch. inputs: what the model is given beside, for the documents of a packed batch, and for
        completion_mask where there are no labels."""
        return self._chosen(labels, inputs or {}, ignore)[0]

    def checked(self, labels: Any, inputs: Optional[Mapping[str, Any]], communicator: Any) -> Rows:
        """The same in training, where the first batches are looked at: rows that are all alike are refused, on all
        ranks at once."""
        rows, at_start = self._chosen(labels, inputs or {}, -100)
        self._alike.note(rows, at_start, communicator)
        return rows

    def _chosen(self, labels: Any, inputs: Mapping[str, Any], ignore: int) -> Tuple[Rows, Any]:
        """The rows, and whether each is the first token of its datum."""
        table = _labels_of(labels, inputs, ignore)
        starts = document_starts(table.shape, inputs)
        targets = table != ignore
        targets[:, 0] = False
        pairs = self._pairs(labels, inputs, targets)
        if pairs:
            targets[len(table) // 2 :] = False
        document = numpy.zeros(table.shape, numpy.int64) if starts is None else starts.cumsum(axis=1)
        if starts is not None:
            targets &= ~starts  # what opens a document is not to be told from the one before
        data, places = numpy.nonzero(targets)
        if self._kind == "per_document" and starts is None:
            raise ValueError(
                "rows is 'per_document', and the batch shows no documents: it needs position_ids that start again, "
                "cu_seqlens, or an attention_mask that numbers them (given as inputs= in a loop of your own)"
            )
        units = data * table.shape[1] + document[data, places]
        chosen = self._pick(table[data, places], units, targets, data, places, pairs)
        data, places, units = data[chosen], places[chosen], units[chosen]
        begins = _first_tokens(table.shape, inputs) if starts is None else None
        at_start = places - 1 == begins[data] if begins is not None else starts[data, places - 1]  # type: ignore[index]
        rows = Rows(places - 1, table[data, places], data, units)
        rows.pairs = pairs
        return rows, at_start

    def _pairs(self, labels: Any, inputs: Mapping[str, Any], targets: Any) -> bool:
        """Whether the batch is of preferences: as said, or as it looks."""
        if self._kind == "pairs" and len(targets) % 2:
            raise ValueError(f"rows is 'pairs', and the batch has {len(targets)} rows: chosen answers, then rejected")
        if self._kind != "auto" or labels is not None or len(targets) % 2 or "completion_mask" not in inputs:
            return self._kind == "pairs"
        half = len(targets) // 2
        prompts = numpy.where(host(inputs["completion_mask"]) != 0, -1, host(inputs["input_ids"]))
        both = (prompts[:half] >= 0) & (prompts[half:] >= 0)
        return bool((prompts[:half] == prompts[half:])[both].all())

    def _pick(self, tokens: Any, units: Any, targets: Any, data: Any, places: Any, pairs: bool) -> Any:
        """Indices of the targets that are looked at; targets are in the order of their units."""
        _, first, counts = numpy.unique(units, return_index=True, return_counts=True)
        kind = self._kind
        if kind in ("first_target", "per_document"):
            return first
        if kind == "last":
            return first + counts - 1
        if kind == "per_turn":
            before = targets[data, places - 1] & (numpy.roll(units, 1) == units)
            return numpy.flatnonzero(~before)
        if kind == "all" or (kind == "auto" and not pairs and (counts == 1).all()):
            return numpy.arange(len(units))
        # The k targets of a datum with the smallest of numbers that its content and the seed give them.
        which = numpy.repeat(numpy.arange(len(counts)), counts)
        place = numpy.arange(len(units)) - first[which]
        content = numpy.zeros(len(counts), dtype=numpy.uint64)
        numpy.add.at(content, which, _mixed(tokens.astype(numpy.uint64) + _mixed(place)))
        keys = _mixed(content[which] + _mixed(place) + numpy.uint64(self._seed % (1 << 63)))
        order = numpy.lexsort((keys, which))
        return numpy.sort(order[place < self._count])


def _mixed(values: Any) -> Any:
    """Numbers of 64 bits that look random, one of each (the finaliser of SplitMix64: Steele, Lea, Flood, 2014)."""
    x = values.astype(numpy.uint64) + numpy.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    return x ^ (x >> numpy.uint64(31))


def _labels_of(labels: Any, inputs: Mapping[str, Any], ignore: int) -> Any:
    """Labels [batch, tokens]; where there are none, input_ids where completion_mask has them."""
    if labels is None:
        if "completion_mask" not in inputs or "input_ids" not in inputs:
            raise ValueError("the batch has neither labels nor input_ids with a completion_mask: pass labels or rows")
        labels = numpy.where(host(inputs["completion_mask"]) != 0, host(inputs["input_ids"]), ignore)
    table = host(labels)
    if table.ndim != 2 or table.shape[1] == 0:
        raise ValueError(f"labels have shape {tuple(table.shape)}; expected [batch, tokens]")
    if table.dtype.kind not in "iu":
        raise TypeError(f"labels hold {table.dtype}, not whole numbers of tokens")
    return table


def document_starts(shape: Tuple[int, ...], inputs: Mapping[str, Any]) -> Optional[Any]:
    """Where documents begin, [batch, tokens] of bools, in a batch that holds several in a row; else None."""
    found = numpy.zeros(shape, dtype=bool)
    offsets = next((inputs[name] for name in _OFFSETS if inputs.get(name) is not None), None)
    counted = {name: host(inputs[name]) for name in ("position_ids", "attention_mask") if inputs.get(name) is not None}
    positions, mask = counted.get("position_ids"), counted.get("attention_mask")
    if positions is not None and positions.ndim == 3:  # several axes of positions: the first is the text's
        positions = positions[0]
    if offsets is not None:
        at = host(offsets).reshape(-1)
        found.reshape(-1)[at[at < found.size]] = True
    elif mask is not None and mask.shape == shape and mask.max(initial=0) > 1:
        found[:, 1:] = mask[:, 1:] != mask[:, :-1]
    elif positions is not None and positions.shape == shape:
        found[:, 1:] = positions[:, 1:] != positions[:, :-1] + 1
        if mask is not None and mask.shape == shape:  # positions of padding mean nothing
            found &= mask != 0
            found[:, 1:] &= mask[:, :-1] != 0
    found[:, 0] = False
    if not found.any():
        return None
    found[:, 0] = True
    return found


def _first_tokens(shape: Tuple[int, ...], inputs: Mapping[str, Any]) -> Any:
    """The first token of each row that is not padding."""
    mask = host(inputs["attention_mask"]) if inputs.get("attention_mask") is not None else None
    if mask is None or mask.shape != shape:
        return numpy.zeros(shape[0], dtype=numpy.int64)
    return (mask != 0).argmax(axis=1)


class _Alike:
    """Whether the rows of the first batches tell data apart."""

    def __init__(self, word: str) -> None:
        self._word, self._open = word, True
        self._count = self._batches = 0
        self._start, self._tokens = True, (numpy.iinfo(numpy.int64).max, numpy.iinfo(numpy.int64).min)

    def note(self, rows: Rows, at_start: Any, communicator: Any) -> None:
        """Looks at a batch, while it is still of interest."""
        if not self._open:
            return
        self._count += rows.n_units
        self._batches += 1
        if len(rows):
            self._start &= bool(at_start.all())
            low, high = self._tokens
            self._tokens = min(low, int(rows.tokens.min())), max(high, int(rows.tokens.max()))
        # What is alike on each rank may differ between them: all take the same view of all data.
        seen = numpy.array([int(self._start), self._tokens[0], -max(self._tokens[1], -(1 << 62)), -self._count])
        count = self._count
        if communicator is not None:
            communicator.all_reduce(seen, "min")
            count = -int(seen[3])
        one_token = int(seen[1]) == -int(seen[2])
        self._open = bool(seen[0]) or one_token or count == 0
        if seen[0] and count >= _AT_START:
            raise ValueError(
                f"all of the first {count} data are probed at their first token, whose state is the same for all: mask "
                f"the prompt in the labels (-100), or say what is looked at with rows=: {CHOICES}"
            )
        if one_token and count >= _ALIKE and self._batches > 1:
            self._open = False
            said = (
                f"the first {count} data are all probed for one and the same next token, {int(seen[1])}: probes cannot "
                f"tell data apart. Say what is looked at with rows=: {CHOICES}"
            )
            if self._word == "auto":
                raise ValueError(f"{said}. Where one target is meant, rows='first_target' goes on with a warning")
            _log.warning(said)
