"""What a Trainer is given is kept under a budget: max_steps, losses of its own, class heads, data without a length."""

import itertools
import math

import pytest
import small_models as small
import torch
import transformers
from test_trainer import arguments, make_trainer

from salf.errors import MismatchError
from salf.torch import FreezeController, automatic
from salf.transformers import SalfCallback, SalfConfig, SalfMixin, SalfTrainer
from salf.transformers.plan import data_of_run, data_of_steps


@pytest.mark.parametrize(("method", "steps", "accumulation"), [("salf[half]", 30, 1), ("lift*[arith][df]", 7, 2)])
def test_a_plan_counts_max_steps(tmp_path, method, steps, accumulation):
    """More than an epoch, or less: the run has these steps, and its plan is whole."""
    trainer = make_trainer(tmp_path, method, max_steps=steps, gradient_accumulation_steps=accumulation)
    trainer.train()
    assert trainer.state.global_step == steps == trainer.controller.steps
    assert trainer.plan.finished
    assert sum(trainer.plan.counts) > 4 * accumulation * (steps - 4)
    assert trainer.controller.saving == pytest.approx(trainer.controller.planner.saving)
    assert trainer.controller.saving > 0.3


def test_data_of_steps_are_the_most_that_fit():
    def even(n):
        return [n // 3 + (k < n % 3) for k in range(3)]

    for steps, window in itertools.product((3, 4, 5, 17), (1, 4, 6)):
        data = data_of_steps(steps, window, even)
        taken = [sum(math.ceil(count / window) for count in even(n)) for n in (data, data + 1)]
        assert taken[0] <= steps < taken[1], (steps, window)


def test_data_of_a_run_are_those_of_its_loader():
    for length, batch, accumulation, epochs, most, drop in itertools.product(
        (5, 12, 13), (2, 5), (1, 3), (1.0, 1.5, 3.0), (0, 4, 9), (False, True)
    ):
        batches = [batch] * (length // batch) + ([length % batch] if length % batch and not drop else [])
        updates = math.ceil(len(batches) / accumulation)
        steps = most if most else math.ceil(epochs * updates)
        counted, done = 0, 0
        while done < steps:
            for at in range(0, len(batches), accumulation):
                counted += sum(batches[at : at + accumulation])
                done += 1
                if done == steps:
                    break
        assert data_of_run(length, batch, accumulation, epochs, most, False, drop) == counted
    assert data_of_run(13, 4, 1, 2.0, 0, True, False) == 32  # two ranks fill the last batch up
    assert data_of_run(None, 4, 2, 1.0, 5, False, False) == 40


@pytest.mark.parametrize("epochs", [1.5, 2])
def test_a_stream_counts_short_batches(tmp_path, epochs):
    """Batches of 3 of 40 data: the last one of each epoch has one."""
    trainer = make_trainer(
        tmp_path, "lift*[half][stream]", per_device_train_batch_size=3, num_train_epochs=epochs, save_strategy="no"
    )
    trainer.train()
    assert trainer.state.global_step == math.ceil(14 * epochs)
    assert sum(int(n) for n in trainer.controller.planner.counts) == (40 + 7 * 3 if epochs == 1.5 else 80)


class Weighted(SalfTrainer):
    """A loss of its own, in the Trainer's method."""

    def compute_loss(self, model, inputs, return_outputs=False, **rest):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        each = torch.nn.functional.cross_entropy(
            outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, label_smoothing=0.3
        )
        self.seen.append(len(labels))
        return (each, outputs) if return_outputs else each


@pytest.mark.parametrize("kind", ["smoothing", "function", "method"])
def test_the_loss_of_the_trainer_is_kept_under_a_plan(tmp_path, kind):
    """What is trained of a probe that a stage takes in part is the Trainer's own loss of these rows."""
    seen, trained = [], []

    def loss_of(outputs, labels, num_items_in_batch=None, **_rest):
        seen.append(len(labels))
        logits, targets = outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        return torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100, label_smoothing=0.3)

    given = {"label_smoothing_factor": 0.3} if kind == "smoothing" else {}
    trainer = make_trainer(tmp_path, "salf[half]", cls=Weighted if kind == "method" else SalfTrainer, **given)
    trainer.seen = seen
    if kind == "function":
        if not hasattr(trainer, "compute_loss_func"):
            pytest.skip(f"transformers {transformers.__version__} takes no compute_loss_func")
        trainer.compute_loss_func = loss_of
    accept = trainer._salf_accept

    def watch(share, rows):
        chosen, count = accept(share, rows)
        trained.append((rows, count))
        return chosen, count

    trainer._salf_accept = watch
    trainer.train()
    assert trainer.plan.finished
    parts = [(rows, count) for rows, count in trained if 0 < count < rows]
    assert parts
    if kind != "smoothing":  # each of them was run once more, by itself
        for rows, count in parts:
            assert (rows, count) in zip(seen, seen[1:])


def test_a_known_loss_is_taken_apart_without_a_second_forward(tmp_path):
    forwards = []
    trainer = make_trainer(tmp_path, "salf[half]")
    compute = trainer._salf_compute_loss

    def counted(model, inputs):
        forwards.append(len(inputs["input_ids"]))
        return compute(model, inputs)

    trainer._salf_compute_loss = counted
    original, known = trainer._salf_loss_of_rows, []
    trainer._salf_loss_of_rows = lambda *given: known.append(original(*given)) or known[-1]
    trainer.train()
    assert known
    assert all(loss is not None for loss in known)


def classifier():
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=small.VOCABULARY, pad_token_id=0, num_labels=3,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.LlamaForSequenceClassification(config)


class Classes(small.Items):
    """Texts with a class."""

    def __getitem__(self, index):
        return {"input_ids": self.ids[index], "labels": int(self.ids[index, 0] % 3)}


@pytest.mark.parametrize("method", ["half", "lift*[half]", "lift*[half][stream]", "lisa"])
def test_a_class_head_by_turns_and_budgets(tmp_path, method):
    model = classifier()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    trainer = make_trainer(tmp_path, SalfConfig(method, others="train"), data=Classes(), model=model)
    trainer.train()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert "score.weight" in moved
    assert "model.embed_tokens.weight" not in moved
    assert any("layers.3" in name for name in moved)


def test_what_a_class_head_cannot_have():
    with pytest.raises(ValueError, match=r"others='train'"):
        FreezeController(classifier(), "half")
    with pytest.raises(ValueError, match=r"no semantic basis. Methods that take turns.*others='train'"):
        FreezeController(classifier(), "salf")


class Endless(torch.utils.data.IterableDataset):
    """Data without a length."""

    def __iter__(self):
        yield from itertools.cycle(small.Items())


@pytest.mark.parametrize("salf", [{"method": "salf", "cache": True}, {"method": "half", "boundary": {"size": 1 << 20}}])
def test_data_that_are_known_by_number(tmp_path, salf):
    """Samplers by length look into the items; what has no numbers is refused."""
    known = transformers.TrainingArguments.__dataclass_fields__
    word = "group_by_length"
    grouped = {word: True} if word in known else {"train_sampling_strategy": word}
    trainer = make_trainer(tmp_path, salf, num_train_epochs=2, **grouped)
    trainer.train()
    assert trainer.state.global_step == 20
    kept = trainer.controller.cache or trainer.controller._own._boundary.cache
    assert len(kept) == 40

    with pytest.raises(ValueError, match="cache= and boundary= know data by their numbers, and Stream has none"):
        make_trainer(tmp_path, salf, data=Stream(), max_steps=3).train()


class Stream(torch.utils.data.IterableDataset):
    """Knows its length, and no datum by its number."""

    def __len__(self):
        return 40

    def __iter__(self):
        return iter([small.Items()[i] for i in range(40)])


def test_a_stream_of_data_may_know_its_length(tmp_path):
    trainer = make_trainer(tmp_path, "lift*[half][stream]", data=Stream(), num_train_epochs=1.5)
    trainer.train()
    assert trainer.controller.steps == 15
    assert trainer.controller.saving == pytest.approx(trainer.controller.planner.saving)
    with pytest.raises(ValueError, match="chooses its data by number, and Stream has none"):
        make_trainer(tmp_path, "salf[half]", data=Stream()).train()


def test_a_resumed_plan_may_cut_its_steps_otherwise(tmp_path):
    """A step of one batch of 4, then steps of two of 2: the same steps."""

    def run(resume=False, **given):
        trainer = make_trainer(tmp_path, "lift*[arith][df]", save_strategy="steps", save_steps=3, **given)
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3") if resume else None)
        return trainer

    whole = run()
    again, said = None, ""
    try:
        again = run(True, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    except MismatchError as error:
        said = str(error)
    if again is None:  # before transformers 5 a Trainer took the size of its batches from the checkpoint: two of 4
        assert int(transformers.__version__.split(".")[0]) < 5
        assert "total_steps is 10 in the blob, 5 in" in said
        return
    assert again.state.global_step == whole.state.global_step
    assert again.plan.finished
    assert again.controller.saving == whole.controller.saving
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_data_without_a_length(tmp_path):
    with pytest.raises(ValueError, match=r"Endless has none: take a stream"):
        make_trainer(tmp_path, "salf[half]", data=Endless(), max_steps=4).train()
    with pytest.raises(ValueError, match="Endless has no length: set max_steps"):
        make_trainer(tmp_path, "half", data=Endless(), max_steps=4).__class__._salf_length(
            type("T", (), {"train_dataset": Endless(), "args": arguments(tmp_path)})()
        )
    for method in ("random[half][stream]", "lisa"):
        trainer = make_trainer(tmp_path, method, data=Endless(), max_steps=5)
        trainer.train()
        assert trainer.state.global_step == 5


def test_a_plan_that_may_stop_early_is_told(tmp_path, caplog):
    stopping = transformers.EarlyStoppingCallback(early_stopping_patience=1)
    trainer = make_trainer(
        tmp_path, "salf[half]", eval_dataset=small.Items(count=8), eval_strategy="steps", eval_steps=2, save_steps=2,
        save_strategy="steps", load_best_model_at_end=True, metric_for_best_model="loss",
    )  # fmt: skip
    trainer.add_callback(stopping)
    trainer.train()
    assert "leaves the deep ones out" in caplog.text


def test_what_was_asked_for_and_stays_frozen_is_named(caplog):
    import peft

    options = {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"], "layers_to_transform": [0, 1]}
    model = peft.get_peft_model(small.make_model("llama"), peft.LoraConfig(task_type="CAUSAL_LM", **options))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    policy = {"script": [3, 2, 1, 0]}
    with FreezeController(model, "scripted", policy=policy, optimizer=optimizer) as controller:
        assert "lm_head.modules_to_save.default.weight" in caplog.text
        assert "layers 2, 3 have nothing to train" in caplog.text
        saved = []
        for seed in range(4):
            ids, labels = small.make_batch(seed=seed)
            controller.begin(labels)
            controller.backward(model(input_ids=ids, labels=labels).loss)
            optimizer.step()
            saved.append(controller.saving * (seed + 1))
    assert saved == pytest.approx([0, 0, 0.25, 0.25])  # nothing is trained at the cuts 3 and 2, and nothing saved
    options = {"r": 2, "target_modules": ["q_proj"], "layers_to_transform": [3]}
    model = peft.get_peft_model(small.make_model("llama"), peft.LoraConfig(task_type="CAUSAL_LM", **options))
    with FreezeController(model, "full", optimizer=torch.optim.SGD(model.parameters(), lr=0.1)) as controller:
        controller.begin(labels)
        controller.backward(model(input_ids=ids, labels=labels).loss)
        assert controller.saving == 0.75
    caplog.clear()
    with FreezeController(small.make_model("llama"), "half"):
        assert "stay frozen" not in caplog.text


class Modal(torch.optim.SGD):
    """An optimizer with a mode, as schedule-free ones are, that steps in training alone."""

    def __init__(self, parameters):
        super().__init__(parameters, lr=0.01)
        self.mode = "none"

    def train(self):
        self.mode = "train"

    def eval(self):
        self.mode = "eval"

    @torch.no_grad()
    def step(self, closure=None):
        assert self.mode == "train"
        return super().step(closure)


def test_an_optimizer_with_a_mode_is_told(tmp_path):
    """Under a plan, whose steps are not the Trainer's own; those of recent versions tell it elsewhere."""
    trainer = make_trainer(tmp_path, "salf[half]", data=small.Items(16), eval_dataset=small.Items(4), max_steps=3)
    trainer.optimizer = Modal(trainer.model.parameters())
    trainer.train()
    assert trainer.state.global_step == 3


class Late(transformers.Trainer):
    """Makes its batch from items."""

    def training_step(self, model, inputs, *args):
        return super().training_step(model, transformers.default_data_collator(inputs), *args)


def test_a_trainer_that_makes_its_batch_from_items(tmp_path):
    """As trainers that generate text do: their steps are given items, no batch. Turns hold for those too."""

    class Frozen(SalfMixin, Late):
        pass

    ends = []
    for cls in (Frozen, SalfTrainer):
        trainer = make_trainer(tmp_path, "half", cls=cls, max_steps=3, remove_unused_columns=False)
        trainer.data_collator = list if cls is Frozen else trainer.data_collator
        trainer.train()
        ends.append([p.detach().clone() for p in trainer.model.parameters()])
        assert trainer.controller.saving == 0.5
    assert all(torch.equal(a, b) for a, b in zip(*ends))
    trainer = make_trainer(tmp_path, "salf", cls=Frozen, max_steps=3, remove_unused_columns=False)
    trainer.data_collator = list
    with pytest.raises(ValueError, match="method 'salf' looks at data"):
        trainer.train()


@pytest.mark.skipif(not automatic.POSSIBLE, reason="callbacks take no streams before PyTorch 2.0")
def test_a_stream_counts_rows_that_are_made_from_items(tmp_path):
    callback = SalfCallback("lift*[half][stream]")
    for steps in (3, -1):
        given = {"args": arguments(tmp_path, max_steps=steps, remove_unused_columns=False), "data_collator": list}
        plain = Late(model=small.make_model("llama"), train_dataset=small.Items(), callbacks=[callback], **given)
        if steps > 0:
            plain.train()
            assert plain.state.global_step == 3
            assert 0 < callback.controller.saving < 0.5
        else:
            with pytest.raises(ValueError, match="how many rows the model will get: set max_steps"):
                plain.train()


def test_deepspeed_is_refused_by_name(tmp_path):
    trainer = make_trainer(tmp_path, "half")
    trainer.is_deepspeed_enabled = True
    with pytest.raises(ValueError, match="DeepSpeed steps flat copies"):
        trainer.train()
    args = arguments(tmp_path)
    args.deepspeed = {"zero_optimization": {"stage": 1}}
    with pytest.raises(ValueError, match="DeepSpeed steps flat copies"):
        SalfCallback("half").on_train_begin(args, None, None, model=trainer.model, optimizer=None)
