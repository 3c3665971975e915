"""The examples of hosts, run as a user would with fewer steps; the callbacks for hosts of which little is known; and
configurations from files. What a host needs and is not installed is skipped, aloud."""

import contextlib
import dataclasses
import importlib.util
import io
import re
import runpy
import sys
import types

import accelerate
import pytest
import small_models as small
import torch
import transformers
from conftest import ROOT

from salf.torch import FreezeController, automatic
from salf.transformers import SalfCallback, SalfConfig, SalfTrainer

HOSTS = ROOT / "examples" / "python" / "hosts"
needs_arguments = pytest.mark.skipif(not automatic.POSSIBLE, reason="hooks see no arguments by name before PyTorch 2.0")


def run(program, *arguments, needs=()):
    """An example in this process, since importing PyTorch is most of what it takes; its last line's figures."""
    missing = [name for name in needs if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{program} needs {', '.join(missing)}")
    accelerate.state.AcceleratorState._reset_state(True)  # one for a process, which a program makes for itself
    said, argv, path, here = io.StringIO(), sys.argv, list(sys.path), set(sys.modules)
    sys.argv = [program, *map(str, arguments)]
    sys.path.insert(0, str(HOSTS))
    try:
        with contextlib.redirect_stdout(said):
            runpy.run_path(str(HOSTS / program), run_name="__main__")
    finally:
        sys.argv, sys.path[:] = argv, path
        for name in set(sys.modules) - here & {"demo"}:
            sys.modules.pop(name, None)
    found = re.search(r"loss (\S+) -> (\S+), steps (\d+), depth saved (\S+)", said.getvalue())
    assert found, said.getvalue()
    return [float(figure) for figure in found.groups()]


TRL = ("trl", "datasets")
EXAMPLES = [
    # program, method, what it needs, options, least saving
    ("plain_loop.py", "salf[half][stream]", (), (), 0.3),
    ("plain_loop.py", "lisa", (), (), 0.1),
    ("hf_trainer.py", "lift*[half][stream]", (), ("--adapter", "dora"), 0.3),
    ("hf_trainer.py", "half", (), ("--adapter", "ia3"), 0.5),
    ("hf_trainer.py", "salf", (), ("--adapter", "none", "--accumulate", 2), 0.0),
    ("accelerate_loop.py", "half", (), ("--precision", "bf16"), 0.5),
    ("accelerate_loop.py", "salf", (), (), 0.0),
    ("callback.py", "lift*[half][stream]", (), (), 0.3),
    ("trl_sft.py", "salf[half][stream]", TRL, (), 0.3),
    ("trl_sft.py", "lift*[half][stream]", TRL, ("--packing",), 0.3),
    ("trl_sft.py", "salf", TRL, ("--packing",), 0.0),
    ("trl_dpo.py", "lift*[half][stream]", TRL, (), 0.3),
    ("lightning_loop.py", "salf[half][stream]", ("lightning",), (), 0.3),
    ("qlora.py", "salf[half][stream]", ("bitsandbytes",), ("--quantiser", "bitsandbytes"), 0.3),
    ("qlora.py", "salf[half][stream]", ("torchao",), ("--quantiser", "torchao"), 0.3),
]


@pytest.mark.parametrize(
    ("program", "method", "needs", "more", "saving"),
    EXAMPLES,
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_examples_run_and_learn(program, method, needs, more, saving):
    """The topic of a text is told by one of six tokens, which all of them learn in some steps; what a method promises
    to leave out is left out."""
    if not automatic.POSSIBLE and program == "callback.py":
        pytest.skip("hooks see no arguments by name before PyTorch 2.0")
    first, last, steps, saved = run(program, "--method", method, "--steps", 12, "--batch", 6, *more, needs=needs)
    assert steps == 12
    assert last < first
    assert saved >= saving - 0.06  # a plan of 72 data has whole data at each layer


def trainer_of(model, tmp_path, salf=None, trainer=transformers.Trainer, **options):
    given = {
        "output_dir": str(tmp_path), "per_device_train_batch_size": 4, "num_train_epochs": 1, "report_to": [],
        "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "logging_steps": 1,
        "lr_scheduler_type": "constant",
    }  # fmt: skip
    callback = SalfCallback(salf) if salf is not None and trainer is transformers.Trainer else None
    more = {"salf": salf} if trainer is not transformers.Trainer else {}
    made = trainer(
        model=model, args=transformers.TrainingArguments(**{**given, **options}), train_dataset=small.Items(),
        data_collator=transformers.default_data_collator, callbacks=[callback] if callback else None, **more,
    )  # fmt: skip
    return made, callback


@needs_arguments
@pytest.mark.parametrize("method", ["salf", "lift*[half][stream]", "salf[half][stream]", "lisa"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_callback_does_what_the_trainer_does(tmp_path, method, accumulation):
    """The same cuts, the same savings and the same bits, though the callback has no hand on the backward."""
    ends = []
    for kind in (transformers.Trainer, SalfTrainer):
        model = small.add_lora(small.make_model("llama"), "llama")
        trainer, callback = trainer_of(model, tmp_path, method, kind, gradient_accumulation_steps=accumulation)
        trainer.train()
        controller = callback.controller if callback else trainer.controller
        cuts = [entry["salf/cut"] for entry in trainer.state.log_history if "loss" in entry]
        ends.append((cuts, controller.saving, [p.detach().clone() for p in model.parameters()]))
        assert all(p.requires_grad for n, p in model.named_parameters() if "lora" in n)
    assert ends[0][:2] == ends[1][:2]
    assert all(torch.equal(a, b) for a, b in zip(ends[0][2], ends[1][2]))


@needs_arguments
def test_a_callback_goes_on_with_its_plan(tmp_path):
    def run_to(folder, steps, resume=False):
        model = small.add_lora(small.make_model("llama"), "llama")
        given = {"save_strategy": "steps", "save_steps": 4, "max_steps": 8}
        trainer, callback = trainer_of(model, folder, "random[half][stream]", **given)
        if steps < 8:
            trainer.add_callback(_StopAt(steps))
        trainer.train(resume_from_checkpoint=resume)
        return [p.detach().clone() for p in model.parameters()], callback.controller.saving

    whole, saving = run_to(tmp_path / "a", 8)
    run_to(tmp_path / "b", 4)
    again, other = run_to(tmp_path / "b", 8, resume=True)
    assert saving == other
    assert all(torch.equal(a, b) for a, b in zip(whole, again))


@needs_arguments
def test_a_callback_takes_no_checkpoint_of_another_run(tmp_path):
    """A callback is told the number of a checkpoint, and not its folder: another of that number may lie in the
    output_dir."""

    def made(folder, callback, seed=7):
        trainer, _ = trainer_of(small.make_model("llama"), folder, save_strategy="steps", save_steps=3, seed=seed)
        trainer.add_callback(callback)
        return trainer

    method = "lift*[half][stream]"
    whole = made(tmp_path / "a", SalfCallback(method))
    whole.train()
    made(tmp_path / "b", SalfCallback(method)).train()
    resumed = str(tmp_path / "a" / "checkpoint-3")
    for folder in ("b", "c"):
        with pytest.raises(ValueError, match=rf"{folder}.checkpoint-3 is not the checkpoint of the run"):
            made(tmp_path / folder, SalfCallback(method)).train(resume_from_checkpoint=resumed)
    other = made(tmp_path / "c", SalfCallback(method, checkpoint=tmp_path / "b" / "checkpoint-3"))
    with pytest.raises(ValueError, match=r"b.checkpoint-3 is not the checkpoint of the run"):
        other.train(resume_from_checkpoint=resumed)
    callback = SalfCallback(method, checkpoint=resumed)
    again = made(tmp_path / "c", callback)
    again.train(resume_from_checkpoint=resumed)
    assert callback.controller.steps == 10
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


class _StopAt(transformers.TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = control.should_training_stop or state.global_step >= self.step


@needs_arguments
def test_data_are_known_by_their_content(tmp_path):
    """A cache in a callback: the second epoch is not probed, whatever the order."""
    model = small.add_lora(small.make_model("llama"), "llama")
    trainer, callback = trainer_of(model, tmp_path, SalfConfig("salf", cache=True), num_train_epochs=2)
    probes = []
    trainer.add_callback(_Count(callback, probes))
    trainer.train()
    assert len(callback.controller.cache) == len({tuple(ids.tolist()) for ids in small.Items().ids})
    assert probes[-1] == probes[len(probes) // 2 - 1] == 40


class _Count(transformers.TrainerCallback):
    def __init__(self, callback, seen):
        self.callback, self.seen = callback, seen

    def on_step_end(self, args, state, control, **kwargs):
        self.seen.append(len(self.callback.controller.cache))


@needs_arguments
def test_ids_of_content_know_no_padding():
    ids = torch.tensor([[5, 6, 7, 0], [0, 5, 6, 7], [5, 6, 7, 0], [5, 6, 8, 0]])
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 0]])
    labels = torch.tensor([[-100, -100, 7, -100], [-100, -100, -100, 7], [-100, 6, 7, -100], [-100, -100, 8, -100]])
    found = automatic._content_ids({"input_ids": ids, "attention_mask": mask, "labels": labels})
    assert found[0] == found[1]
    assert len(set(found)) == 3
    assert all(0 <= number < 1 << 63 for number in found)
    assert automatic._content_ids({"inputs_embeds": torch.zeros(2, 3, 4)}) is None


@needs_arguments
def test_several_forwards_before_one_backward():
    """As losses of parts of a batch, or of pairs, have them. A turn holds for all of them; data decide for their own
    forward alone."""
    model = small.make_model("llama")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [small.make_batch(seed=seed) for seed in range(2)]
    wanted = torch.autograd.grad(
        sum(model(input_ids=ids, labels=labels).loss for ids, labels in batches),
        list(model.model.layers[2].parameters()),
    )
    for method in ("half", "salf"):
        with FreezeController(model, method, optimizer=optimizer) as controller:
            batching = automatic.Automatic(controller, model)
            first = model(input_ids=batches[0][0], labels=batches[0][1]).loss
            if method == "salf":
                with pytest.raises(RuntimeError, match=r"begin\(\) came again before the backward"):
                    model(input_ids=batches[1][0], labels=batches[1][1])
            else:
                (first + model(input_ids=batches[1][0], labels=batches[1][1]).loss).backward()
                for parameter, gradient in zip(model.model.layers[2].parameters(), wanted):
                    torch.testing.assert_close(parameter.grad, gradient)
                assert all(p.grad is None for p in model.model.layers[1].parameters())
                optimizer.step()
                assert controller.steps == 1
                assert controller._accounts.state().tolist() == [6.0, 12.0]
                optimizer.zero_grad()
            batching.close()


@needs_arguments
def test_a_model_that_is_called_with_something_else_is_refused():
    from salf.torch import FreezeController

    class Inner(torch.nn.Module):
        def forward(self, pixels=None):
            return pixels

    model = small.make_model("llama")
    controller = FreezeController(model, "half", optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    inner = Inner()
    hook = automatic.Automatic(controller, inner)
    with pytest.raises(ValueError, match="Inner was called without input_ids or inputs_embeds"):
        inner(pixels=torch.ones(1))
    with torch.no_grad():
        inner(pixels=torch.ones(1))
    inner.eval()
    inner(pixels=torch.ones(1))
    inner.train()
    hook.close()
    inner(pixels=torch.ones(1))


@pytest.mark.parametrize("method", ["salf[half]", "salf[arith][df]"])
def test_plans_that_choose_their_data_are_refused(method):
    expected = rf"chooses the data.*use SalfTrainer\(.*'{re.escape(method)}\[stream\]'"
    with pytest.raises(ValueError, match=expected):
        SalfCallback(method)


def test_lightning_counts_data_without_a_length():
    pytest.importorskip("lightning")
    from salf import lightning

    stream = torch.utils.data.DataLoader(_Stream(), batch_size=4)
    trainer = types.SimpleNamespace(
        train_dataloader=stream, num_training_batches=3, max_epochs=2, accumulate_grad_batches=1,
        estimated_stepping_batches=6.0,
    )  # fmt: skip
    assert (lightning._data_of(trainer), lightning._steps_of(trainer)) == (24, 6)
    trainer.estimated_stepping_batches = float("inf")
    assert lightning._steps_of(trainer) == 0


class _Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(small.Items())


@needs_arguments
def test_lightning(tmp_path):
    """Validation in between, accumulation, and a checkpoint to go on from: the same bits."""
    lightning = pytest.importorskip("lightning")
    from salf.lightning import SalfCallback as Callback

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = small.add_lora(small.make_model("llama"), "llama")

        def training_step(self, batch, index):
            return self.model(**batch).loss

        validation_step = training_step

        def configure_optimizers(self):
            return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=1e-2)

    def fit(folder, epochs, resume=None, **options):
        torch.manual_seed(0)
        module, callback = Module(), Callback(SalfConfig("random[half][stream]", seed=3))
        trainer = lightning.Trainer(
            max_epochs=2, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, logger=False,
            default_root_dir=folder, callbacks=[callback], accumulate_grad_batches=2, limit_train_batches=6, **options,
        )  # fmt: skip
        loader = torch.utils.data.DataLoader(small.Items(), batch_size=4)
        if epochs < 2:
            trainer.fit_loop.epoch_progress  # noqa: B018 - there
            trainer.should_stop = False
            trainer.callbacks.append(_StopEpoch(epochs))
        trainer.fit(module, loader, loader, ckpt_path=resume)
        return module, callback, trainer

    class _StopEpoch(lightning.Callback):
        def __init__(self, epochs):
            self.epochs = epochs

        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = trainer.current_epoch + 1 >= self.epochs

    whole, callback, _ = fit(tmp_path / "a", 2)
    assert callback.controller.steps == 6
    assert callback.controller.saving == pytest.approx(callback.controller.planner.saving)
    assert callback.controller.planner.n_data == 48
    assert all(p.requires_grad for n, p in whole.model.named_parameters() if "lora" in n)
    _, _, trainer = fit(tmp_path / "b", 1)
    again, resumed, _ = fit(tmp_path / "b", 2, trainer.checkpoint_callback.best_model_path)
    assert resumed.controller.saving == callback.controller.saving
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters()))
    with pytest.raises(ValueError, match=r"Module has no module 'inner': SalfCallback\(..., model=NAME\)"):
        lightning.Trainer(
            max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            callbacks=[Callback("half", model="inner")],
        ).fit(Module(), torch.utils.data.DataLoader(small.Items(), batch_size=4))  # fmt: skip


# ---- configurations from files ----


def test_a_config_from_a_dictionary(tmp_path):
    values = {"method": "salf", "labels": [1, 2], "cache": True, "seed": 7, "policy": {"reduction": "smallest"}}
    config = SalfConfig.from_dict(values)
    assert (config.method, config.labels, config.cache, config.seed) == ("salf", [1, 2], True, 7)
    assert config.policy == {"reduction": "smallest"}
    assert SalfConfig.from_dict({}) == SalfConfig()
    assert SalfConfig.from_dict(dataclasses.asdict(config)) == config
    with pytest.raises(ValueError, match="max_cache_age is 3, and there is no cache"):
        trainer_of(small.make_model("llama"), tmp_path, {"method": "salf", "max_cache_age": 3}, SalfTrainer)[0].train()
    model = small.add_lora(small.make_model("llama"), "llama")
    trainer, _ = trainer_of(model, tmp_path, {"method": "half"}, SalfTrainer)
    trainer.train()
    assert trainer.controller.saving == 0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"methd": "salf"}, r"salf has no option 'methd'; did you mean 'method'\?"),
        ({"zzz": 1}, "salf has no option 'zzz'; known are method, labels"),
        ({"head": [1.0]}, r"salf: head is an object of Python: SalfConfig\(head=...\) takes it"),
        ({"method": "salf[quarter]"}, r"unknown method 'salf\[quarter\]'"),
        ({"method": 3}, "salf: method is 3, which is not a text"),
        ({"seed": "1"}, "salf: seed is '1', which is not a whole number or nothing"),
        ({"seed": True}, "salf: seed is True, which is not a whole number"),
        ({"cache": "yes"}, "salf: cache is 'yes', which is not true or false"),
        ({"probe_limit": "1e-3"}, "salf: probe_limit is '1e-3', which is not a whole number or a number or nothing"),
        ({"policy": ["lisa"]}, r"salf: policy is \['lisa'\], which is not a dictionary"),
        ({"labels": 3}, "salf: labels is 3, which is not a list"),
    ],
)
def test_what_a_dictionary_may_not_say(values, message):
    with pytest.raises(ValueError, match=message):
        SalfConfig.from_dict(values)


def test_every_field_can_be_said_in_a_file_or_is_an_object():
    from salf.transformers import config

    names = {item.name: str(item.type) for item in dataclasses.fields(SalfConfig)}
    assert {name for name, kind in names.items() if kind not in config._KINDS} == set(config._OBJECTS)


def test_yaml(tmp_path):
    """The file that an example reads; what plug-ins of trainers hand over is such a dictionary."""
    first, last, steps, saved = run("yaml_config.py", "--config", HOSTS / "salf.yaml", "--steps", 10, needs=("yaml",))
    assert steps == 10
    assert last < first
    assert saved > 0.3
