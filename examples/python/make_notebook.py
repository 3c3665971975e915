"""Makes a notebook of a script's cells ("# %%", "# %% [markdown]") and runs it, with nothing but Python.

    python make_notebook.py            # notebook_cells.py -> finetune.ipynb

What a cell prints, and what its last expression shows (as HTML where it can), becomes the cell's output. Needs what the
cells import.
"""

import argparse
import ast
import contextlib
import io
import json
import os
import pathlib
import tempfile

HERE = pathlib.Path(__file__).resolve().parent


def cells_of(script):
    """(kind, source) of each cell."""
    found = []
    for part in ("\n" + script).split("\n# %%")[1:]:
        head, _, body = part.partition("\n")
        body = body.strip("\n")
        if "[markdown]" in head:
            body = "\n".join(line.removeprefix("#").removeprefix(" ") for line in body.splitlines())
        found.append(("markdown" if "[markdown]" in head else "code", body))
    return found


def run_cell(source, names):
    """The outputs of a cell, as notebooks store them."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    said, value = io.StringIO(), None
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
        exec(compile(tree, "<cell>", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
    outputs = []
    if said.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": lines(said.getvalue())})
    if value is not None:
        data = {"text/plain": lines(str(value))}
        if hasattr(value, "_repr_html_"):
            data["text/html"] = lines(value._repr_html_())
        outputs.append({"output_type": "display_data", "metadata": {}, "data": data})
    return outputs


def lines(text):
    """Text as notebooks store it."""
    return text.splitlines(keepends=True)


def make(script, changes=()):
    """The notebook of a script, executed in a folder that is removed with all that the run leaves. changes: pairs of
    texts, what stands in the cells and what is run instead."""
    names, made, count, here = {"__name__": "__main__"}, [], 0, os.getcwd()
    with tempfile.TemporaryDirectory() as scratch:
        place = pathlib.Path(scratch) / "python"
        place.mkdir()
        os.symlink(HERE / "hosts", place / "hosts")
        os.symlink(HERE.parent / "demo", place.parent / "demo")
        os.chdir(place)
        try:
            for number, (kind, source) in enumerate(cells_of(script)):
                cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": lines(source)}
                if kind == "code":
                    count += 1
                    run = source
                    for before, after in changes:
                        run = run.replace(before, after)
                    cell.update(execution_count=count, outputs=run_cell(run, names))
                made.append(cell)
        finally:
            os.chdir(here)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", default=HERE / "notebook_cells.py", type=pathlib.Path)
    parser.add_argument("--output", default=HERE / "finetune.ipynb", type=pathlib.Path)
    o = parser.parse_args()
    notebook = make(o.cells.read_text(encoding="utf-8"))
    o.output.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
