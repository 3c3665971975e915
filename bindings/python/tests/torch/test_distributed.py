"""Two processes over gloo: the same cuts, steps and weights on both ranks, gradients as in one process."""

import os
import pathlib
import socket
import subprocess
import sys

import pytest
import torch

HERE = pathlib.Path(__file__).resolve().parent


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run(task, folder):
    """Results of the ranks."""
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared.update({"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "ACCELERATE_USE_CPU": "true"})
    output = folder / "found"
    started = [
        subprocess.Popen(
            [sys.executable, str(HERE / "ranks.py"), task, str(output)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=3600)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(said)
    return [torch.load(f"{output}.{rank}") for rank in range(2)]


def test_collective_operations(tmp_path):
    for found in run("collectives", tmp_path):
        assert found["sum"] == [4.0, 4.0]
        assert found["min"] == [4, 0]
        assert found["all"] == [True, False]
        assert found["gathered"] == [[], [1]]
        assert found["gradients"] == [[1.5, 2.0], [0.5, 0.5], None]  # of what no rank trained there is none


def test_ranks_that_differ_are_told_what(tmp_path):
    first, second = run("agreements", tmp_path)
    for said in (first, second):
        assert said["labels"].startswith("SALF_E_MISMATCH: the ranks differ in labels of the builders")
        assert said["seeds"].startswith("SALF_E_MISMATCH: the ranks differ in seed: ")
        assert said["same"] == "fine"
    assert first["failure"] == "SALF_E_MISMATCH: rank 1 failed with SALF_E_IO"
    assert second["failure"] == "SALF_E_IO: gone"


def test_a_head_in_shards(tmp_path):
    for found in run("shards", tmp_path):
        assert found["rank"] == 0
        assert found["ce"] < 1e-6


def test_ranks_share_one_stream(tmp_path):
    first, second = run("streams", tmp_path)
    for assignment in ("random", "eof"):
        mine, other = first[assignment], second[assignment]
        cuts = mine["cuts"] + other["cuts"]
        assert [cuts.count(layer) for layer in range(4)] == mine["counts"] == other["counts"]
        assert mine["weights"] == other["weights"]


def test_both_ranks_take_one_cut(tmp_path):
    """Also where one rank's data alone would have chosen another."""
    first, second = run("cuts_alone", tmp_path)
    assert first["together"] == second["together"]
    assert first["alone"] != first["together"]
    assert second["alone"] != second["together"]


def test_ddp_trains_as_one_process_would(tmp_path):
    first, second = run("ddp", tmp_path)
    assert first["cuts"] == second["cuts"]
    assert len(set(first["cuts"])) > 1
    assert first["sum"] == second["sum"]
    assert first["moved"] == 0
    assert first["worst"] < 1e-5


def test_a_rank_may_have_nothing_to_say(tmp_path):
    first, second = run("a_rank_without_rows", tmp_path)
    assert first["cut"] == second["cut"]


def test_trainers_of_both_ranks_agree(tmp_path):
    first, second = run("trainers", tmp_path)
    for method, found in first.items():
        assert found["sum"] == second[method]["sum"], method
        assert found["cuts"] == second[method]["cuts"], method
        assert found["steps"] == found["expected"] == second[method]["steps"], method
        if found["counts"] is not None:
            counts, trained = found["counts"]
            assert trained == counts == second[method]["counts"][1], method
            assert sum(counts) == 41


def needs_fsdp():
    try:
        from torch.distributed.fsdp import FullyShardedDataParallel  # noqa: F401
    except Exception as error:
        pytest.skip(f"this PyTorch ({torch.__version__}) cannot import FSDP: {error}")


def test_fsdp_trains_as_one_process_would(tmp_path):
    needs_fsdp()
    first, second = run("fsdp", tmp_path)
    assert first["cuts"] == second["cuts"] == [0, 1, 2, 3]
    assert first["worst"] < 1e-5


def test_fsdp_by_trace_takes_the_last_batchs_cut(tmp_path):
    needs_fsdp()
    first, second = run("fsdp_lag", tmp_path)
    assert first == second


def test_fsdp_that_cannot_freeze_by_layer_is_refused(tmp_path):
    needs_fsdp()
    for found in run("fsdp_refused", tmp_path):
        assert len(found["messages"]) == 2
        assert "use_orig_params=True" in found["messages"][0]
        assert "no FSDP unit of its own" in found["messages"][1]


def test_what_would_part_the_ranks_is_refused_on_both(tmp_path):
    first, second = run("ddp_refused", tmp_path)
    assert first == second
    assert "without static_graph" in first["static"]
    assert "controller.wrapped(model)" in first["untold"]
    assert "call controller.backward(loss)" in first["own"]
    assert "gradients were not averaged" in first["unsynchronised"]
    assert "gradients were not averaged" in first["unsynchronised too"]


def test_fsdp_before_the_controller(tmp_path):
    needs_fsdp()
    if not hasattr(torch.distributed.fsdp, "fully_shard"):
        pytest.skip(f"PyTorch {torch.__version__} has no fully_shard")
    first, second = run("fsdp_first", tmp_path)
    assert first == second
    for kind in ("fsdp1", "fsdp2"):
        assert "make the controller before FSDP" in first[kind, "salf"]
        assert first[kind, "half"] < 1e-5


def test_rows_are_alike_on_all_ranks_or_on_none(tmp_path):
    for same, apart in run("alike", tmp_path):
        assert "one and the same next token, 9" in same
        assert apart is None
