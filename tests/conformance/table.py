"""The page that a run of the conformance check writes."""

LENGTH = 132

INTRODUCTION = """# Conformance: which models salf is right about

For whoever wants to know whether `salf.torch` takes their model, and what was checked of it. This page is written by `make conformance`
(`tests/conformance/`); the last run was with {versions}.

Of the {total} classes that transformers lists as causal language models, **{right} are right, {refused} are refused, {wrong} are wrong**{unbuilt}. Of the right ones {told}
need to be told one thing, as salf's refusal says: their head transforms what it reads, and the norm ahead of that is named.

A small model of each class ({layers} layers, hidden size {hidden}, vocabulary {vocabulary}, random weights with noise on all vectors, float32) is

- taken apart by `find_parts`: layers, final norm and head are found by a forward, norm and head are described by formulas that reproduce
  them to 1e-5;
- probed: all deviations are compared with those of the model's own hidden states and a float64 pseudo-inverse (`controller.verify`), and the
  last space once more with `hidden_states[-1]` of transformers and NumPy's `pinv`, by code of the check's own; limit 1e-5;
- parameters of other towers (vision, audio) are frozen first, as salf asks;
- trained: with the cut in the middle, gradients at and above it are those of a full backward (to 1e-4), and below it there are none.

| word | means |
|---|---|
| right | all of that holds |
| refused | salf says in one sentence why it does not take the model |
| wrong | salf takes the model, and something of it does not hold |
| not built | transformers itself could not make or run the small model here |

**Norm** is what the final norm computes: `layer`, `rms`, `rms1p` (RMS with 1 + weight), `none`, or `observed` where no formula reproduces it or
it reads another state than the last layer's, so that its output is taken from the norm itself. **Spaces** says whose states the deviations
were compared with: `hidden_states` of transformers, or `hooks` where that list counts otherwise than layer by layer (Mamba leaves out
space 0, others add what happens between layers): to salf, space 0 is what enters the first layer and space k + 1 what layer k gives.
"""


def page(rows, counts, versions):
    """The whole page."""
    import tiny

    unbuilt = f", and {counts['unbuilt']} could not be built" if counts["unbuilt"] else ""
    text = INTRODUCTION.format(
        versions=versions,
        total=len(rows),
        unbuilt=unbuilt,
        told=sum("told" in row for row in rows if row["verdict"] == "right"),
        layers=tiny.LAYERS,
        hidden=tiny.HIDDEN,
        vocabulary=tiny.VOCABULARY,
        **{name: counts[name] for name in ("right", "refused", "wrong")},
    )
    right = [row for row in rows if row["verdict"] == "right"]
    text += "\n## Right\n\n| type | class | norm | eps | error of the norm | error of deviations | spaces |\n|---|---|---|---|---|---|---|\n"
    text += "".join(
        f"| {r['type']} | {r['class']}{named(r)} | {r['norm']} | {number(r['eps'] or None)} | {number(r['norm_error'])} | "
        f"{number(r['deviation'])} | {r['states']} |\n"
        for r in right
    )
    for verdict, title in (("refused", "Refused"), ("wrong", "Wrong"), ("unbuilt", "Not built")):
        found = [row for row in rows if row["verdict"] == verdict]
        if found:
            text += f"\n## {title}\n\n| type | class | reason |\n|---|---|---|\n"
            text += "".join(f"| {r['type']} | {r['class']} | {escaped(r['reason'])} |\n" for r in found)
    return text


def named(row):
    """What find_parts was told, in a cell."""
    return f" with `{row['told']}`" if "told" in row else ""


def number(value):
    """A figure of two digits, or a dash."""
    return "-" if value is None or value != value or value in (float("inf"),) else f"{value:.2g}"


def escaped(text):
    """Text for a cell."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")[:400]
