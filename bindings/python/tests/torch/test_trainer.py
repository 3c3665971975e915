"""SalfTrainer and SalfCallback: methods, plans, resume, accumulation, what is logged."""

import copy
import dataclasses
import json
import logging
import os

import numpy
import pytest
import small_models as small
import torch
import transformers
from transformers import default_data_collator

from salf.methods import METHODS, POLICIES, parse_method
from salf.torch import automatic
from salf.transformers import SalfCallback, SalfConfig, SalfMixin, SalfTrainer
from salf.transformers.plan import shuffled_epochs


def arguments(folder, **given):
    options = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "num_train_epochs": 1,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
        "report_to": [],
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 7,
    }
    return transformers.TrainingArguments(**{**options, **given})


def make_trainer(folder, salf, data=None, model=None, cls=SalfTrainer, eval_dataset=None, **given):
    return cls(
        model=model or small.add_lora(small.make_model("llama"), "llama"),
        args=arguments(folder, **given),
        train_dataset=data or small.Items(),
        eval_dataset=eval_dataset,
        data_collator=default_data_collator,
        salf=salf,
    )


@pytest.mark.parametrize("name", METHODS)
def test_all_methods_of_the_paper(tmp_path, name):
    trainer = make_trainer(tmp_path, name)
    weights = copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    changed = {n for n, p in trainer.model.state_dict().items() if not torch.equal(p, weights[n])}
    assert changed
    assert all("lora" in name for name in changed)
    if trainer.plan is not None:
        planner = trainer.controller.planner
        assert trainer.plan.finished
        assert sum(trainer.plan.counts) == 40
        assert trainer.controller.saving == pytest.approx(planner.saving)
        stages = [planner.stage(layer) for layer in range(4)]
        assert sum(stage.matched + stage.filled for stage in stages) == 40
        assert (sum(stage.probed for stage in stages) > 0) == parse_method(name).probes
    elif name == "lora[half]":
        assert trainer.controller.saving == 0.5
    elif name == "lora[full]":
        assert trainer.controller.saving == 0.0


OTHERS = ["salf[ce]", "salf[half][rank]", *[p for p in POLICIES if p not in ("salf", "scripted", "callback")]]


@pytest.mark.parametrize("name", OTHERS)
def test_other_metrics_and_policies(tmp_path, name):
    needed = {"autofreeze": {"interval": 2}, "suffix": {"first_layer": 1}}
    trainer = make_trainer(tmp_path, SalfConfig(name, policy=needed.get(name, {})))
    trainer.train()
    assert trainer.state.global_step == trainer.state.max_steps
    assert 0 <= trainer.controller.saving < 1


def test_full_training_is_the_trainers_own(tmp_path):
    """Nothing frozen: the weights are those of a plain Trainer, bit for bit."""
    plain = transformers.Trainer(
        model=small.add_lora(small.make_model("llama"), "llama"),
        args=arguments(tmp_path, gradient_accumulation_steps=2),
        train_dataset=small.Items(),
        data_collator=default_data_collator,
    )
    plain.train()
    trainer = make_trainer(tmp_path, "lora[full]", gradient_accumulation_steps=2)
    trainer.train()
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, trainer.model.state_dict()[name]), name


def test_the_plan_trains_every_datum_once(tmp_path):
    seen = []

    class Watching(SalfTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, **rest):
            self.batch = inputs["input_ids"]
            return super().compute_loss(model, inputs, return_outputs=return_outputs, **rest)

        def _salf_accept(self, share, rows):
            chosen, count = super()._salf_accept(share, rows)
            self.batch = self.batch[torch.from_numpy(chosen)]
            return chosen, count

    trainer = make_trainer(tmp_path, "salf[arith][df]", cls=Watching)

    original = transformers.Trainer.create_optimizer

    def backward_seen(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        inner = self.accelerator.backward

        def backward(loss, **rest):
            seen.append((self.controller.cut, self.batch.clone()))
            return inner(loss, **rest)

        self.accelerator.backward = backward
        return result

    transformers.Trainer.create_optimizer = backward_seen
    try:
        trainer.train()
    finally:
        transformers.Trainer.create_optimizer = original
    rows = torch.cat([batch for _, batch in seen])
    assert len(rows) == 40
    assert len({tuple(row.tolist()) for row in rows}) == 40
    depth = [0] * 4
    for cut, batch in seen:
        depth[cut] += len(batch)
    assert depth == list(trainer.plan.counts)


@pytest.mark.parametrize("accumulation", [1, 2, 3])
@pytest.mark.parametrize("method", ["lift*[arith][bf]", "salf[geom][df]"])
def test_steps_of_a_plan_are_known_beforehand(tmp_path, method, accumulation):
    trainer = make_trainer(tmp_path, method, gradient_accumulation_steps=accumulation)
    trainer.train()
    expected = sum(-(-count // (4 * accumulation)) for count in trainer.plan.counts)
    assert trainer.state.global_step == trainer.state.max_steps == trainer.controller.steps == expected


@pytest.mark.parametrize("matching", ["online", "offline"])
@pytest.mark.parametrize(("accumulation", "max_steps", "steps"), [(1, -1, 10), (2, -1, 5), (2, 3, 3)])
def test_full_batches_of_a_plan(tmp_path, matching, accumulation, max_steps, steps):
    """Stages of 10 data in batches of 4: without full_batches 12 steps, of which four are short."""
    config = SalfConfig("salf[half]", matching=matching, planner={"full_batches": True})
    trainer = make_trainer(tmp_path, config, gradient_accumulation_steps=accumulation, max_steps=max_steps)
    sizes, task = [], trainer._salf_task

    def noted(model, share):
        if share.kind == "train":
            sizes.append(len(share.indices))
        return task(model, share)

    trainer._salf_task = noted
    trainer.train()
    assert trainer.state.global_step == trainer.state.max_steps == trainer.controller.steps == steps
    assert sizes == [4] * (steps * accumulation)
    assert trainer.plan.finished
    assert sum(trainer.plan.progress.trained) == 4 * steps * accumulation
    assert trainer.controller.saving == pytest.approx(trainer.controller.planner.saving)
    assert trainer.controller._own._split.split_everywhere


def test_accumulation_equals_the_larger_batch(tmp_path):
    """Units of a window are weighted so that its gradient is the mean over its data, also where the last one is
    short."""
    ends = []
    for batch, accumulation in ((4, 1), (2, 2), (1, 4)):
        trainer = make_trainer(
            tmp_path,
            "lift*[arith][bf]",
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            data=small.Items(count=22),
        )
        trainer.train()
        ends.append(trainer.model.state_dict())
    for other in ends[1:]:
        for name, value in ends[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-5)


def test_epochs_are_one_plan(tmp_path):
    trainer = make_trainer(tmp_path, "salf[half]", num_train_epochs=2.5)
    trainer.train()
    assert sum(trainer.plan.counts) == 100
    assert trainer.plan.finished


def test_order_of_the_data_is_a_permutation_for_each_epoch():
    order = shuffled_epochs(7, 18, seed=3)
    assert sorted(order[:7]) == sorted(order[7:14]) == list(range(7))
    assert len(set(order[14:])) == 4
    assert list(order[:7]) != list(order[7:14])
    numpy.testing.assert_array_equal(order, shuffled_epochs(7, 18, seed=3))


def test_offline_matching_probes_all_data_first(tmp_path):
    trainer = make_trainer(tmp_path, SalfConfig("salf[half]", matching="offline"))
    trainer.train()
    planner = trainer.controller.planner
    assert sum(planner.stage(layer).matched + planner.stage(layer).filled for layer in range(4)) == 40
    assert sum(planner.stage(layer).probed for layer in range(4)) == 0
    assert trainer.plan.finished


class Killed(Exception):
    """Stands for a run that ends from outside."""


def killed(trainer, step):
    """Runs until a step, as if killed right after it."""

    class Kill(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step >= step:
                raise Killed

    trainer.add_callback(Kill())
    with pytest.raises(Killed):
        trainer.train()


@pytest.mark.parametrize(
    "salf",
    [
        "salf",
        "salf[half]",
        "lift[half]",
        "lift*[geom][bf]",
        SalfConfig("salf[arith][df]", matching="offline"),
        SalfConfig("salf[arith][df]", planner={"full_batches": True}),
        SalfConfig("salf", cache=True),
        SalfConfig("block", policy={"interval": 2}),
        SalfConfig("autofreeze", policy={"interval": 2}),
    ],
    ids=lambda salf: salf
    if isinstance(salf, str)
    else f"{salf.method}-{salf.matching}-{salf.cache}{len(salf.planner)}",
)
def test_killed_and_resumed(tmp_path, salf):
    """Same plan, same weights, bit for bit, with dropout in the model."""

    def start(folder):
        torch.manual_seed(0)
        model = small.add_lora(small.make_model("llama"), "llama", dropout=0.1)
        return make_trainer(
            folder, copy.deepcopy(salf), model=model, save_strategy="steps", save_steps=3, num_train_epochs=2
        )

    whole = start(tmp_path / "whole")
    whole.train()
    killed(start(tmp_path / "killed"), step=8)
    resumed = start(tmp_path / "killed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "killed" / "checkpoint-6"))
    assert resumed.state.global_step == whole.state.global_step
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert resumed.controller.policy.save() == whole.controller.policy.save()
    assert resumed.controller.saving == pytest.approx(whole.controller.saving)
    if whole.plan is not None:
        assert resumed.controller.planner.save() == whole.controller.planner.save()
        assert resumed.plan.progress == whole.plan.progress


def test_a_checkpoint_without_salf_is_refused(tmp_path):
    trainer = make_trainer(tmp_path, "salf[half]", save_strategy="steps", save_steps=2)
    trainer.train()
    os.remove(tmp_path / "checkpoint-2" / "salf.pt")
    again = make_trainer(tmp_path, "salf[half]")
    with pytest.raises(FileNotFoundError, match="not written by a run with salf"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_a_checkpoint_of_another_method_is_refused(tmp_path):
    make_trainer(tmp_path, "salf[half]", save_strategy="steps", save_steps=2).train()
    with pytest.raises(ValueError, match=r"method 'salf\[half\]' for method 'salf'"):
        make_trainer(tmp_path, "salf").train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_a_checkpoint_of_other_options_is_refused(tmp_path):
    """What a policy and a plan keep of themselves, and what they do not."""
    data = [small.Items(40), small.Items(36)]
    make_trainer(tmp_path, SalfConfig("salf[half]"), save_strategy="steps", save_steps=2, max_steps=4).train()
    for given, message in [
        ({"rows": "last"}, "rows 'auto', this controller has 'last'"),
        ({"basis": {"mode": "ridge", "ridge": 1.0}}, "mode 'rtol', this controller has 'ridge'"),
        ({"policy": {"train_head": True}}, "train_head"),
        ({"train_dataset": data[1]}, "took its data in another order: the dataset has another length"),
    ]:
        dataset = given.pop("train_dataset", data[0])
        again = make_trainer(tmp_path, SalfConfig("salf[half]", **given), max_steps=4)
        again.train_dataset = dataset
        with pytest.raises(Exception, match=message):
            again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    same = make_trainer(tmp_path, SalfConfig("salf[half]", probe={"lens": "hf"}, labels=[1, 2]), max_steps=4)
    same.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert same.plan.finished


def test_the_cache_spares_the_second_epochs_probes(tmp_path):
    trainer = make_trainer(tmp_path, SalfConfig("salf", cache=True), num_train_epochs=2)
    probed = []

    class Count(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            probed.append(trainer.controller.trace)

    trainer.add_callback(Count())
    trainer.train()
    assert len({id(trace) for trace in probed}) == 10
    assert probed[-1] is probed[9]
    assert len(trainer.controller.cache) == 40


def test_scalars_are_logged(tmp_path):
    trainer = make_trainer(tmp_path, "salf[half]")
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["salf/cut"] for entry in logged] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert logged[-1]["salf/saving_total"] == pytest.approx(trainer.controller.planner.saving)
    assert logged[-1]["salf/matched"] + logged[-1]["salf/filled"] == 40
    assert "salf/deviation/4" in logged[0]
    json.dumps(logged)


def test_evaluation_in_between(tmp_path):
    key = (
        "eval_strategy"
        if "eval_strategy" in transformers.TrainingArguments.__dataclass_fields__
        else "evaluation_strategy"
    )
    trainer = make_trainer(
        tmp_path, "salf[half]", eval_dataset=small.Items(seed=9, count=8), eval_steps=3, **{key: "steps"}
    )
    trainer.train()
    assert trainer.plan.finished
    assert any("eval_loss" in entry for entry in trainer.state.log_history)


def test_checkpointing_through_the_trainer(tmp_path):
    ends = []
    for on in (False, True):
        trainer = make_trainer(
            tmp_path, "salf[half]", gradient_checkpointing=on, gradient_checkpointing_kwargs={"use_reentrant": False}
        )
        trainer.train()
        ends.append(trainer.model.state_dict())
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-4, atol=1e-6)


class FakeScaler:
    """Stands for a gradient scaler, which on a CPU there is none of in PyTorch 1."""

    def scale(self, loss):
        return loss


@pytest.mark.parametrize(
    ("method", "fused"), [("salf[half]", False), ("lift*[arith][df]", False), ("salf", False), ("salf[half]", True)]
)
def test_a_step_skipped_by_the_scaler_does_not_advance_the_plan(tmp_path, method, fused, caplog):
    if fused and not hasattr(torch.amp, "GradScaler"):
        pytest.skip(f"PyTorch {torch.__version__} has no fused optimizers on a CPU")
    trainer = make_trainer(tmp_path, method, optim="adamw_torch_fused" if fused else "adamw_torch")
    trainer.accelerator.scaler = FakeScaler()
    skips = {2, 3}

    class Skip(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            wrapper = trainer.optimizer
            cls = type(wrapper)
            skip = state.global_step in skips
            if fused:  # it is called, with what the scaler found, and accelerate knows of no skipped step
                wrapper.optimizer.grad_scale, wrapper.optimizer.found_inf = None, torch.tensor(float(skip))
                wrapper.step = lambda closure=None: wrapper.optimizer.step()
            elif skip:  # the optimizer is not called, and accelerate says that the step was skipped
                wrapper.step = lambda closure=None: setattr(wrapper, "_is_overflow", True)
            else:
                wrapper.step = lambda closure=None: (setattr(wrapper, "_is_overflow", False), wrapper.optimizer.step())
            assert cls.__name__ == "AcceleratedOptimizer"

    trainer.add_callback(Skip())
    with caplog.at_level(logging.WARNING, logger="salf.transformers.trainer"):
        trainer.train()
    assert trainer.state.global_step - trainer.controller.steps == 2
    if trainer.plan is None:
        return
    done = [0] * 4
    at = trainer.controller.steps
    for layer, count in enumerate(trainer.plan.counts):
        for first in range(0, count, 4):
            if at > 0:
                done[layer] += min(4, count - first)
                at -= 1
    assert trainer.plan.progress.trained == done
    left = 40 - sum(done)
    assert left > 0
    assert f"{left} of 40 data of the plan were not trained" in caplog.text


# ---- what belongs to the caller ----


def test_a_config_is_a_value(tmp_path):
    """One config and one set of arguments serve several runs, and are afterwards what they were."""
    config = SalfConfig("salf[half]")
    shared, weights = arguments(tmp_path), []
    before = (copy.deepcopy(config), shared.to_dict())
    for _ in range(2):
        trainer = SalfTrainer(
            model=small.add_lora(small.make_model("llama"), "llama"),
            args=shared,
            train_dataset=small.Items(),
            data_collator=default_data_collator,
            salf=config,
        )
        trainer.train()
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert (config, shared.to_dict()) == before
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.parts = None


def test_arguments_get_their_value_back_from_a_run_that_fails(tmp_path):
    seen = []

    class Failing(SalfTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, **rest):
            seen.append(self.args.ignore_data_skip)
            raise Killed

    for method, while_running in (("salf[half]", True), ("lift[half]", False)):
        trainer = make_trainer(tmp_path, method, cls=Failing)
        with pytest.raises(Killed):
            trainer.train()
        assert seen.pop() is while_running
        assert trainer.args.ignore_data_skip is False


def test_a_config_serves_several_callbacks(tmp_path):
    config = SalfConfig("lora[half]")
    for _ in range(2):
        model = small.add_lora(small.make_model("llama"), "llama")
        trainer = transformers.Trainer(
            model=model,
            args=arguments(tmp_path),
            train_dataset=small.Items(),
            data_collator=default_data_collator,
            callbacks=[SalfCallback(config)],
        )
        trainer.train()
        assert all(p.requires_grad == ("lora" in n) for n, p in model.named_parameters())
    assert config.parts is None


@pytest.mark.parametrize(("limit", "option"), [(None, 0), (0.5, 3), (2, 11), (0, "all")])
def test_probe_limit_counts_shares_of_a_layer(limit, option):
    config, method = SalfConfig("salf[half]", probe_limit=limit), parse_method("salf[half]")
    assert config.plan_options(method, 20, 4, seed=7) == {
        "n_data": 20, "growth": "uniform", "infill": "breadth", "matching": "online", "assignment": "random",
        "stream_order": "staged", "probe_limit": option, "seed": 7,
    }  # fmt: skip


def test_a_plan_by_weights_of_ones_own(tmp_path):
    config = SalfConfig("salf[half]", planner={"growth": "custom", "weights": [1, 2, 2, 5]})
    trainer = make_trainer(tmp_path, config)
    trainer.train()
    assert trainer.plan.counts == [4, 8, 8, 20]
    assert trainer.plan.finished


def test_a_plan_without_probes_matches_none():
    config = SalfConfig("lift*[geom][bf]", matching="offline")
    assert config.plan_options(parse_method(config.method), 20, 4, seed=7)["matching"] == "none"


@pytest.mark.parametrize("limit", [-0.5, float("nan")])
def test_a_probe_limit_that_is_none(tmp_path, limit):
    with pytest.raises(ValueError, match=f"probe_limit is {limit}"):
        make_trainer(tmp_path, SalfConfig("salf[half]", probe_limit=limit)).train()


# ---- the callback alone ----


@pytest.mark.parametrize("method", ["lora[half]", "lift[half]", "lift*[half]", "lisa"])
def test_callback_in_a_plain_trainer(tmp_path, method):
    """The same weights as SalfTrainer's."""

    def run(cls, **extra):
        trainer = cls(
            model=small.add_lora(small.make_model("llama"), "llama"),
            args=arguments(tmp_path, gradient_accumulation_steps=2),
            train_dataset=small.Items(),
            data_collator=default_data_collator,
            **extra,
        )
        trainer.train()
        return trainer

    plain = run(transformers.Trainer, callbacks=[SalfCallback(method)])
    mixed = run(SalfTrainer, salf=method)
    for name, value in mixed.model.state_dict().items():
        assert torch.equal(value, plain.model.state_dict()[name]), name
    assert all(p.requires_grad == ("lora" in n) for n, p in plain.model.named_parameters())
    assert "salf/saving" in plain.state.log_history[0]


def test_callback_resumes(tmp_path):
    def start():
        return transformers.Trainer(
            model=small.add_lora(small.make_model("llama"), "llama"),
            args=arguments(tmp_path, save_strategy="steps", save_steps=3),
            train_dataset=small.Items(),
            data_collator=default_data_collator,
            callbacks=[SalfCallback(SalfConfig("block", policy={"interval": 2}))],
        )

    whole = start()
    whole.train()
    resumed = start()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


@pytest.mark.parametrize("method", ["salf[half]", *([] if automatic.POSSIBLE else ["salf"])])
def test_callback_refuses_what_it_cannot_do(method):
    with pytest.raises(ValueError, match="use SalfTrainer"):
        SalfCallback(method)


# ---- what is refused ----


def test_a_collator_without_labels(tmp_path):
    trainer = make_trainer(tmp_path, "salf[half]")
    trainer.data_collator = lambda items: {"input_ids": torch.stack([item["input_ids"] for item in items])}
    with pytest.raises(ValueError, match="no labels"):
        trainer.train()


def test_a_wrong_option(tmp_path):
    with pytest.raises(TypeError, match="a method's name, a SalfConfig or a dictionary"):
        make_trainer(tmp_path, 3)
    with pytest.raises(ValueError, match="unknown method"):
        make_trainer(tmp_path, "salf[quarter]").train()


def test_the_mixin_beside_another_trainer(tmp_path):
    class Own(transformers.Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **rest):
            self.called = True
            return super().compute_loss(model, inputs, return_outputs=return_outputs, **rest)

    class Both(SalfMixin, Own):
        pass

    trainer = make_trainer(tmp_path, "salf[half]", cls=Both)
    trainer.train()
    assert trainer.called
    assert trainer.plan.finished
