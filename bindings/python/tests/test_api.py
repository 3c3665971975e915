"""The package covers the header: every function is called, every status has an exception, every record has the
fields."""

import builtins
import ctypes
import dataclasses
import gc
import sys

import header as salf_header
import numpy as np
import pytest
from oracle import probe
from small import HIDDEN, LAYERS, ROOT, VOCAB

import salf
from salf import errors, methods
from salf._dtypes import DTYPES, TENSOR_DTYPES
from salf._ffi import GROUPS, ffi, names


@pytest.fixture(scope="module")
def text():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return salf_header.preprocessed()


@pytest.fixture(scope="module")
def constants(text):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return salf_header.constants(text)


class Spy:
    """The library, with the names of the functions that were called."""

    def __init__(self, lib):
        self.lib, self.called = lib, set()

    def __dir__(self):
        return dir(self.lib)

    def __getattr__(self, name):
        found = getattr(self.lib, name)
        if not callable(found):
            return found

        def call(*arguments):
            self.called.add(name)
            return found(*arguments)

        return call


class Alone:
    rank, ranks = 0, 1

    def all_reduce(self, buffer, operation):
        pass


def use_everything(folder, head):
    """A short life of every handle."""
    context = salf.Context("cpu", communicator=Alone())
    salf.version()
    context.agree()
    salf.save_tensors(context, folder / "t.safetensors", {"a": head, "b": np.float32(3)}, {"key": "value"})
    salf.save_file(folder / "t.bin", np.arange(3, dtype=np.int16))
    assert (folder / "t.bin").read_bytes() == b"\0\0\1\0\2\0"
    tensors = salf.Tensors.open(context, folder / "t.safetensors")
    assert [*tensors] == ["a", "b"]
    assert tensors["a"].shape == head.shape
    assert tensors.metadata("key") == "value"
    use_checkpoint(folder, context, head)
    model = salf.Model(context, n_layers=LAYERS, head=head)
    model.fingerprint()
    model.update()
    assert model.info.hidden == HIDDEN
    assert model.tensors is None
    with pytest.raises(errors.UnsupportedError, match="described"):
        model.decoder  # noqa: B018
    with pytest.raises(errors.NotFoundError):
        salf.Model.open(context, folder / "none")
    use_basis(folder, context, model, head)
    use_plans(context)
    assert salf.constant("SALF_METRIC_RANK") == 2
    del context, model, tensors
    gc.collect()


def use_basis(folder, context, model, head):
    basis = salf.Basis(model, [1, 2])
    basis.check()
    basis.save(folder / "basis.safetensors")
    salf.Basis.load(context, folder / "basis.safetensors", model).refresh()
    assert [*basis.labels] == [1, 2]
    basis.rows([1])
    builder, other = (salf.BasisBuilder(context, VOCAB, HIDDEN, [1]) for _ in range(2))
    builder.add(0, head[:30])
    other.add(30, head[30:])
    builder.merge(other)
    builder.all_reduce()
    assert builder.partial.dtype == np.float64
    builder.finish(model)
    trace = probe(basis, [1], np.ones((LAYERS + 1, 1, HIDDEN), np.float32))
    salf.eof_from_deviations(trace.deviations)
    whole, part = salf.Probe(basis), salf.Probe(basis)
    for made in (whole, part):
        made.begin([1])
        made.observe(0, np.ones((1, HIDDEN), np.float32))
    part.partial()
    for space in range(1, LAYERS + 1):
        whole.observe(space, np.ones((1, HIDDEN), np.float32))
    whole.flush()
    assert whole.poll()
    pytest.raises(salf.Error, whole.replay)
    whole.end()
    salf.Loss(basis).compute([1], np.ones((1, HIDDEN), np.float32))


def use_checkpoint(folder, context, head):
    made_of = {"rate": "0.1", "data": salf.content_of(folder / "t.bin")}
    assert made_of["data"].hash == salf.hash_bytes(b"\0\0\1\0\2\0")
    planner = salf.Planner(context, LAYERS, 6)
    policy = salf.Policy(context, "budget", LAYERS, planner=planner)
    with salf.Checkpoint(context, folder / "run", made_of) as run:
        assert (run.saves, run.locked, run.damage) == (0, True, None)
        run.save({"head": head}, {"epoch": "3"}, policy, planner)
    back = np.zeros_like(head)
    with salf.Checkpoint(context, folder / "run", made_of) as run:
        run.load({"head": back}, policy=policy, planner=planner)
        assert (run.saves, run.metadata("epoch"), run.metadata("none")) == (1, "3", None)
        assert np.array_equal(run.array("head"), back)
    assert np.array_equal(head, back)


def use_plans(context):
    planner = salf.Planner(context, LAYERS, 6)
    assert planner.counts.sum() == 6
    planner.next(2)
    planner.report([0, 0])
    planner.done()
    planner.stage(0)
    planner.load(planner.save())
    assert 0 <= planner.saving < 1
    offline = salf.Planner(context, LAYERS, 2, matching="offline")
    offline.set_eof(0, [0, 1])
    offline.match()
    stream = salf.Planner(context, LAYERS, 2, matching="stream", assignment="eof")
    stream.set_groups([7], [2])
    stream.next(2)
    trace = salf.Trace.from_deviations(np.zeros((2, LAYERS + 1)))
    assert sorted(stream.assign(trace, [7, 7]).eof) == [0, 1]
    signal = salf.Signal(context, LAYERS, max_ids=10)
    signal.add(trace, groups=[7, 7], ids=[0, 0], cuts=[0, LAYERS])
    assert (signal.info.rows, signal.info.agreement, signal.info.matched_share) == (2, 1.0, 1.0)
    policy = salf.Policy(context, "budget", LAYERS, planner=planner)
    policy.load(policy.save())
    assert methods._paper_names() == methods.METHODS
    assert methods.parse_method("salf[arith][df]").growth == "arithmetic"
    salf.Policy(context, "full", LAYERS).decide(0)
    salf.estimate_cost(
        n_layers=1, hidden=8, ffn_hidden=8, vocab=8, n_heads=1, rows=1, row_tokens=1, matrices=("q", "v"), eof=[0],
        trainable=[True],
    )  # fmt: skip


def test_every_function_of_the_header_is_called(tmp_path, head, text, monkeypatch):
    from salf import _ffi, _handles, _library

    real = salf.lib
    spy = Spy(real)
    for name, module in list(sys.modules.items()):
        if name.startswith("salf") and getattr(module, "lib", None) is real:
            monkeypatch.setattr(module, "lib", spy)
    _ffi._class_of.cache_clear()
    _library.check_version(ffi, spy, "here")
    use_everything(tmp_path, head)
    declared = set(salf_header.functions(text))
    assert len(declared) > 60
    assert declared - spy.called == set()
    assert spy.called - declared == set()
    assert _handles.lib is spy


def test_every_status_has_an_exception_of_its_own(constants):
    statuses = [name for name in constants if name.startswith("SALF_E_")]
    assert len(statuses) > 25
    classes = {errors.class_name(name): name for name in statuses}
    assert set(classes) == set(errors.CLASSES) - {"Error"}
    for name, status in classes.items():
        kind = getattr(errors, name)
        assert kind is errors.CLASSES[name]
        assert kind().status == constants[status]
        assert kind("text").status_name == status
        assert str(kind("text")) == "text"
        assert issubclass(kind, salf.Error)


def test_an_error_tells_status_name_and_message(context):
    with pytest.raises(errors.ArgumentError, match="n_layers is 0") as caught:
        salf.Planner(context, 0, 5)
    assert caught.value.status == salf.constant("SALF_E_ARGUMENT")
    assert caught.value.status_name == "SALF_E_ARGUMENT"
    assert caught.value.status_text == "invalid argument"
    assert isinstance(caught.value, ValueError)


def test_a_status_of_a_newer_library():
    error = salf._ffi.error_of(-77)
    assert isinstance(error, salf.Error)
    assert (error.status, error.status_name, error.status_text) == (-77, "SALF_E_UNKNOWN", "unknown status")
    assert salf.Error.status == 0


def test_constants_are_those_of_the_header(constants):
    for name, value in constants.items():
        assert salf.constant(name) == value
    with pytest.raises(errors.NotFoundError, match="SALF_NONE_SUCH"):
        salf.constant("SALF_NONE_SUCH")
    with pytest.raises(errors.ArgumentError, match="NUL"):
        salf.constant("SALF\0")


def test_groups_of_names_are_whole(constants):
    """Each field that is given by name knows all names of its group, and no others."""
    groups = {**GROUPS, "kind of policy": "POLICY", "kind of loss": "LOSS", "matrices": "MATRIX", "task": "TASK"}
    groups |= {"probe_limit": "PROBE", "operation": "ALL_REDUCE"}
    for group in groups.values():
        start = f"SALF_{group}_"
        known = {name[len(start) :].lower(): value for name, value in constants.items() if name.startswith(start)}
        assert names(group) == known
        assert known


RECORDS = {
    salf.ContextInfo: ("salf_context_info", {"backend_name"}), salf.ModelInfo: ("salf_model_info", set()),
    salf.DecoderInfo: ("salf_decoder_info", set()),
    salf.BasisInfo: ("salf_basis_info", set()), salf.Cost: ("salf_cost", set()),
    salf.Trace: ("salf_trace", set()), salf.Stage: ("salf_stage", set()), salf.Task: ("salf_task", {"n_data"}),
    salf.SignalInfo: ("salf_signal_info", set()),
    salf.Decision: ("salf_decision", {"n_added", "n_removed", "n_reset", "rows"}),
}  # fmt: skip


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_records_have_the_fields_of_their_structs(record):
    struct, other = RECORDS[record]
    fields = {name for name, _ in ffi.typeof(struct).fields} - {"struct_size", "reserved", "reserved2"} - other
    assert {field.name for field in dataclasses.fields(record)} == fields


OPTIONS = {
    salf.Planner: ("salf_planner_options", set()), salf.Policy: ("salf_policy_options", {"n_script", "callback_user"}),
    salf.Probe: ("salf_probe_options", {"n_candidates"}), salf.Loss: ("salf_loss_options", {"n_candidates"}),
    salf.Signal: ("salf_signal_options", set()),
    salf.Basis: ("salf_basis_options", set()), salf.estimate_cost: ("salf_cost_options", set()),
    salf.Model: ("salf_model_options", {"head_rows_user", "embedding_rows_user", "accept"}),
    salf.Context: ("salf_context_options", {"alloc", "free", "alloc_user", "log_user", "rank", "ranks", "all_reduce",
                                            "communicator_user", "progress_user", "blas"}),
}  # fmt: skip


@pytest.mark.parametrize("made", OPTIONS, ids=lambda made: made.__name__)
def test_every_option_can_be_given(made):
    struct, other = OPTIONS[made]
    code = (made.__init__ if isinstance(made, type) else made).__code__
    given = set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
    fields = {name for name, _ in ffi.typeof(struct).fields} - {"struct_size", "reserved", "reserved2"} - other
    assert fields - given == set()


def test_the_version_is_that_of_the_header(constants):
    parts = [constants[f"SALF_VERSION_{part}"] for part in ("MAJOR", "MINOR", "PATCH")]
    assert salf.version() == salf.__version__ == ".".join(map(str, parts))


def test_names_are_exported_once():
    assert len(salf.__all__) == len(set(salf.__all__))
    assert all(hasattr(salf, name) for name in salf.__all__)
    assert not set(salf.__all__) & set(dir(builtins))  # from salf import * hides nothing of Python's own


def test_element_types_agree_in_all_their_names():
    for name, kind in DTYPES.items():
        assert kind.size == ffi.sizeof(kind.c_type) == memoryview(bytearray(8)).cast(kind.code).itemsize
        if name != "bfloat16":  # which NumPy does not know
            assert np.dtype(name).itemsize == kind.size
        if kind.code not in "H?":
            assert np.dtype(name).char in (kind.code, "l")
    assert sorted(TENSOR_DTYPES) == list(range(1, 9))


def test_methods_are_those_of_the_library():
    assert methods.METHODS[0] == "lora[full]"
    assert len(methods.METHODS) == len(set(methods.METHODS)) == 14
    planned = methods.parse_method("salf[geom][df][rank]")
    assert dataclasses.astuple(planned) == (
        "salf[geom][df][rank]", "budget", "geometric", "depth", "online", True, "rank", "random", "staged"
    )  # fmt: skip
    assert planned.planned
    assert [methods.parse_method(name).policy for name in methods.POLICIES] == list(methods.POLICIES)
    for wrong in ("salf[quarter]", "lift[half][ce]", "budget", ""):
        with pytest.raises(ValueError, match=r"unknown method.*salf\[half\]"):
            methods.parse_method(wrong)
    with pytest.raises(errors.ArgumentError, match="not a path or text"):
        methods.parse_method(3)
    assert ctypes.sizeof(ctypes.c_void_p) == ffi.sizeof("void *")
