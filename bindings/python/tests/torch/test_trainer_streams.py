"""SalfTrainer under a stream: the Trainer's loader, loss and steps are its own, and the plan is kept."""

import copy

import pytest
import small_models as small
import torch
from test_trainer import killed, make_trainer

from salf.transformers import SalfConfig


def stream(assignment="random", **more):
    return SalfConfig("salf[half]", planner={"matching": "stream", "assignment": assignment, **more})


def weights_of(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


@pytest.mark.parametrize("assignment", ["random", "eof", "gain"])
@pytest.mark.parametrize(
    "given", [{}, {"num_train_epochs": 3}, {"gradient_accumulation_steps": 2}, {"dataloader_num_workers": 2}], ids=str
)
def test_the_plan_is_kept_and_nothing_is_run_twice(tmp_path, assignment, given):
    trainer = make_trainer(tmp_path, stream(assignment), **given)
    seen = []
    inner = trainer.model.get_base_model().model
    inner.register_forward_pre_hook(lambda module, _: seen.append(1) if module.training else None)
    trainer.train()
    planner = trainer.controller.planner
    assert trainer.plan is None
    assert trainer.controller.saving == pytest.approx(planner.saving)
    assert len(seen) == 10 * given.get("num_train_epochs", 1)
    assert planner.next(4).kind == "done"


@pytest.mark.parametrize("steps", [3, 25])
def test_max_steps_are_what_the_plan_counts(tmp_path, steps):
    trainer = make_trainer(tmp_path, stream(), max_steps=steps)
    trainer.train()
    assert trainer.state.global_step == steps
    assert trainer.controller.planner.n_data == 4 * steps
    assert trainer.controller.saving == pytest.approx(trainer.controller.planner.saving)


@pytest.mark.parametrize("given", [{"label_smoothing_factor": 0.1}, {"max_grad_norm": 0.5}], ids=str)
def test_the_losses_of_the_trainer_are_kept(tmp_path, given):
    plain = make_trainer(tmp_path, stream())
    plain.train()
    other = make_trainer(tmp_path, stream(), **given)
    other.train()
    first = [trainer.state.log_history[0]["loss"] for trainer in (plain, other)]
    assert (first[0] != pytest.approx(first[1])) == ("label_smoothing_factor" in given)


@pytest.mark.parametrize("assignment", ["random", "eof"])
def test_killed_and_resumed(tmp_path, assignment):
    options = {"save_strategy": "steps", "save_steps": 3, "num_train_epochs": 2}
    whole = make_trainer(tmp_path / "whole", stream(assignment), **options)
    whole.train()
    killed(make_trainer(tmp_path / "parts", stream(assignment), **options), 5)
    rest = make_trainer(tmp_path / "parts", stream(assignment), **options)
    rest.train(resume_from_checkpoint=True)
    for name, value in weights_of(whole).items():
        assert torch.equal(rest.model.state_dict()[name], value), name
    assert rest.controller.saving == whole.controller.saving


@pytest.mark.parametrize(
    "salf",
    ["lora[half]", stream(), SalfConfig("salf[half]", planner={"full_batches": True, "matching": "none"})],
    ids=["half", "stream", "full batches of a plan"],
)
def test_kept_states_give_the_same_weights(tmp_path, salf):
    config = SalfConfig(salf) if isinstance(salf, str) else salf
    found = []
    for boundary in (None, {"size": 1 << 20}):
        model = small.add_lora(small.make_model("llama"), "llama")
        trainer = make_trainer(
            tmp_path,
            SalfConfig(config.method, planner=config.planner, boundary=copy.deepcopy(boundary)),
            model=model,
            num_train_epochs=3,
            weight_decay=0.0,
        )
        trainer.train()
        found.append(weights_of(trainer))
    kept = trainer.controller._own._boundary.cache
    assert kept.hits >= 40
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["salf[half][stream]", "lift*[geom][df][stream]", "random[half][stream]", "ramp"])
def test_streams_by_name(tmp_path, name):
    trainer = make_trainer(tmp_path, name)
    trainer.train()
    expected = 0.0 if name == "ramp" else trainer.controller.planner.saving
    assert trainer.controller.saving == pytest.approx(expected, abs=0.05 if "random" in name else 1e-9)
