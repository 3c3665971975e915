"""Deviations per layer of a model on a text, as a picture: where the right next token comes into sight.

    python lens.py --model FOLDER --text FILE --output lens.svg

Every token of the text is a datum, whose right next token is the one that follows. A row of the picture is a latent
space (0: the embedding's output), a column a token; dark is close to the right token's basis, and a dot marks the
layer that gains most: the one from which this datum would be trained. The curve at the right is the mean over the
text.
"""

import argparse
import html
import pathlib

import numpy
import torch
import transformers
from classification import open_tokenizer
from local_model import load_model

from salf.torch import FreezeController, Rows

CELL, LEFT, TOP, CURVE = 14, 44, 26, 160


def measure(model, ids, metric):
    """The trace of a text [tokens - 1]."""
    batch = torch.tensor([ids])
    count = len(ids) - 1
    every = numpy.arange(count)  # of one text, each position a datum of its own
    rows = Rows(every, ids[1:], numpy.zeros(count, dtype=numpy.int64), units=every)
    with FreezeController(model, f"salf[{metric}]") as controller, torch.no_grad():
        controller.begin(rows=rows)
        model(input_ids=batch)
        return controller.observe()


def shade(value, low, high):
    """Dark blue for the least deviation, white for the most."""
    share = 0.0 if high <= low else (value - low) / (high - low)
    return "#{:02x}{:02x}{:02x}".format(*(round(dark + (255 - dark) * share) for dark in (20, 60, 140)))


def label(x, y, text, extra=""):
    return f'<text x="{x}" y="{y}" {extra}>{html.escape(text)}</text>'


def cells(trace, words):
    """The table of deviations, the dots of the layers that gain most, and the words."""
    table = trace.deviations
    spaces, count = table.shape[1], table.shape[0]
    low, high = table.min(), table.max()
    for space in range(spaces):
        y = TOP + (spaces - 1 - space) * CELL
        yield label(LEFT - 8, y + 11, str(space), 'text-anchor="end"')
        for token in range(count):
            x = LEFT + token * CELL
            yield (
                f'<rect x="{x}" y="{y}" width="{CELL - 1}" height="{CELL - 1}" '
                f'fill="{shade(table[token, space], low, high)}"><title>{html.escape(words[token])}, space {space}: '
                f"{table[token, space]:.4f}</title></rect>"
            )
    for token, eof in enumerate(trace.eof):
        y = TOP + (spaces - 1 - (eof + 1)) * CELL
        yield f'<circle cx="{LEFT + token * CELL + 6.5}" cy="{y + 6.5}" r="3" fill="#e07020"/>'
    below = TOP + spaces * CELL + 6
    for token, word in enumerate(words[:count]):
        x = LEFT + token * CELL + 4
        yield label(x, below, word.strip() or "\u2423", f'transform="rotate(60 {x} {below})"')


def curve(trace):
    """Mean deviation of each space."""
    mean = trace.deviations.mean(axis=0)
    spaces, count = len(mean), len(trace.eof)
    left = LEFT + count * CELL + 30
    low, high = mean.min(), mean.max()
    points = []
    for space, value in enumerate(mean):
        share = 0.5 if high <= low else (value - low) / (high - low)
        points.append(f"{left + share * CURVE:.1f},{TOP + (spaces - 1 - space) * CELL + 6.5}")
    yield f'<polyline points="{" ".join(points)}" fill="none" stroke="#e07020" stroke-width="2"/>'
    yield label(left, TOP - 10, f"mean: {low:.3f} to {high:.3f}")


def picture(trace, words, title):
    count, spaces = trace.deviations.shape
    width, height = LEFT + count * CELL + CURVE + 60, TOP + spaces * CELL + 110
    parts = [label(LEFT, TOP - 10, title), *cells(trace, words), *curve(trace)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        f'font-size="10"><rect width="100%" height="100%" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def words_of(tokenizer, ids):
    if hasattr(tokenizer, "pieces"):
        return [tokenizer.pieces[i].decode("utf-8", "replace") for i in ids]
    return [tokenizer.inner.decode([i]) for i in ids]


def main():
    parser = argparse.ArgumentParser(description="Deviations per layer of a model on a text, as an SVG picture.")
    parser.add_argument("--model", required=True, help="folder of a model of transformers")
    parser.add_argument("--text", required=True, help="text file")
    parser.add_argument("--tokenizer", help=".bin file (default: tok*.bin in the model's folder, else the model's own)")
    parser.add_argument("--metric", choices=("cosine", "ce", "rank"), default="cosine")
    parser.add_argument("--tokens", type=int, default=64, help="of the text, from its start (default: 64)")
    parser.add_argument("--output", default="lens.svg")
    o = parser.parse_args()
    transformers.logging.set_verbosity_error()
    tokenizer = open_tokenizer(o.model, o.tokenizer)
    ids = tokenizer.encode(pathlib.Path(o.text).read_text(encoding="utf-8"))[: o.tokens + 1]
    if len(ids) < 2:
        parser.error(f"{o.text} has fewer than two tokens")
    trace = measure(load_model(o.model), ids, o.metric)
    title = f"{pathlib.Path(o.model).name}: {o.metric} deviation of the next token, by latent space"
    pathlib.Path(o.output).write_text(picture(trace, words_of(tokenizer, ids[1:]), title), encoding="utf-8")
    for space, value in enumerate(trace.deviations.mean(axis=0)):
        print(f"{space}\t{value:.6f}")


if __name__ == "__main__":
    main()
