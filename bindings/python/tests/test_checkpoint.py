"""Checkpoints of a run from Python: what is refused, and what is left when a process is killed."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import salf


def test_a_process_that_is_killed_gives_the_lock_back(tmp_path, context):
    folder = tmp_path / "run"
    code = (
        "import salf, sys, time\n"
        "run = salf.Checkpoint(salf.Context('reference'), sys.argv[1], {'seed': '1'})\n"
        "run.save(metadata={'at': '5'})\n"
        "print('saved', flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"saved\n"
        with pytest.raises(salf.errors.BusyError, match=f"process {process.pid} on host"):
            salf.Checkpoint(context, folder, {"seed": "1"})
        os.kill(process.pid, signal.SIGKILL)
    with salf.Checkpoint(context, folder, {"seed": "1"}) as run:
        assert (run.saves, run.metadata("at")) == (1, "5")


def test_another_run_is_refused_in_words(tmp_path, context):
    data = tmp_path / "data.tsv"
    data.write_text("one")
    folder = tmp_path / "run"
    with salf.Checkpoint(context, folder, {"rate": "0.1", "data": salf.content_of(data)}) as run:
        run.save({"x": np.arange(4.0)})
    with pytest.raises(salf.errors.MismatchError, match="rate 0.1, this run has rate 0.2"):
        salf.Checkpoint(context, folder, {"rate": "0.2", "data": salf.content_of(data)})
    moved = tmp_path / "moved.tsv"
    data.rename(moved)
    salf.Checkpoint(context, folder, {"rate": "0.1", "data": salf.content_of(moved)}).close()
    moved.write_text("two")
    with pytest.raises(salf.errors.MismatchError, match="another data: the content of .*moved.tsv"):
        salf.Checkpoint(context, folder, {"rate": "0.1", "data": salf.content_of(moved)})
    with pytest.raises(salf.errors.ArgumentError, match="'rate' is 0.1, neither text"):
        salf.Checkpoint(context, folder, {"rate": 0.1})


def test_what_does_not_fit_leaves_arrays_as_they_are(tmp_path, context):
    folder = tmp_path / "run"
    with salf.Checkpoint(context, folder) as run:
        run.save({"x": np.arange(4, dtype=np.float32), "n": np.arange(2)})
        run.save({"x": np.arange(4, dtype=np.float32), "n": np.arange(2)})
    (folder / "checkpoint-0.safetensors").write_bytes(b"damaged")
    with salf.Checkpoint(context, folder) as run:
        assert run.saves == 1
        assert "checkpoint-0.safetensors" in run.damage
        x = np.full(4, 7, np.float32)
        with pytest.raises(salf.errors.ShapeError, match="'n'"):
            run.load({"x": x, "n": np.arange(3)})
        with pytest.raises(salf.errors.DtypeError, match="'x'"):
            run.load({"x": np.zeros(4)})
        with pytest.raises(salf.errors.NotFoundError, match="'y'"):
            run.load({"x": x, "y": x})
        with pytest.raises(salf.errors.ArgumentError, match="read-only"):
            run.load({"x": np.broadcast_to(np.float32(1), (4,))[:4]})
        with pytest.raises(salf.errors.ArgumentError, match=r"'salf\.x'"):
            run.save({"salf.x": x})
        assert (x == 7).all()
        run.load({"x": x})
        assert (x == np.arange(4)).all()


class SavesOnTheWay:
    """A name that saves when it is asked for, as the handler of a signal or another thread may at any moment."""

    def __init__(self, name, run):
        self.name, self.run = name, run

    def __fspath__(self):
        self.run.save({"x": np.zeros(4)}, {"at": "6"})
        return self.name


def test_a_save_on_the_way_takes_nothing_away_that_is_read(tmp_path, context):
    for read, gone in (("metadata", "at"), ("array", "x")):
        with salf.Checkpoint(context, tmp_path / read) as run:
            run.save({"x": np.arange(4.0)}, {"at": "5"})
        with salf.Checkpoint(context, tmp_path / read) as run:
            if read == "metadata":
                assert run.metadata(SavesOnTheWay(gone, run)) is None
            else:
                with pytest.raises(salf.errors.NotFoundError):
                    run.array(SavesOnTheWay(gone, run))
            assert run.saves == 2
