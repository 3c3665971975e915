"""One lifecycle: a batch that was begun is trained or refused, whoever calls backward(); a model comes out of a run as
it went in, and copies of it are free of the run."""

import copy
import gc
import io
import pickle
import weakref

import pytest
import small_models as small
import torch
import transformers
from test_trainer import arguments, make_trainer

from salf.torch import FreezeController
from salf.transformers import SalfCallback, SalfConfig, SalfTrainer


def loss_of(model, ids, labels):
    return model(input_ids=ids, labels=labels, use_cache=False).loss


def make(family, kind="dense"):
    model = small.make_model(family)
    return small.add_lora(model, family) if kind == "lora" else model


def sgd(model, rate=0.1):
    return torch.optim.SGD(model.parameters(), lr=rate)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


#: Methods by when their decision falls: behind the forward, before it, and with cuts of each row's own.
METHODS = {
    "salf": {},
    "salf before": {"when": "before"},
    "suffix": {"policy": {"first_layer": 2}},
    "lisa": {"policy": {"n_active": 2, "interval": 1}},
    "lift_star": {"policy": {"total_steps": 3}},
    "lift*[half][stream]": {"planner": {"n_data": 60}},
    "salf[half][stream]": {"planner": {"n_data": 60}},
    "salf prefix": {"policy": {"reduction": "prefix"}},
}


def controller_of(model, name):
    return FreezeController(model, name.split(" ")[0], optimizer=sgd(model), **METHODS[name])


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["dense", "lora"])
@pytest.mark.parametrize("name", METHODS)
def test_a_backward_of_the_hosts_own_gives_the_same(name, kind, checkpointing):
    """Weights, cuts and figures of three steps of two batches are those of controller.backward()."""
    if checkpointing and name in ("salf[half][stream]", "salf prefix"):
        pytest.skip("refused: layers are run again as it is")
    found = []
    for own in (False, True):
        model = make("llama", kind)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.enable_input_require_grads()
        with controller_of(model, name) as controller:
            optimizer = controller._guard.optimizer
            cuts, seen = [], {}
            for seed in range(6):
                ids, labels = small.make_batch(seed=seed)
                controller.begin(labels)
                loss = loss_of(model, ids, labels)
                loss.backward() if own else controller.backward(loss)
                cuts.append(controller.cut)
                if seed % 2:
                    optimizer.step()
                    optimizer.zero_grad()
            seen = {n: p.detach().clone() for n, p in model.named_parameters()}
            found.append((cuts, controller.saving, controller.steps, seen))
    assert found[0][:3] == found[1][:3]
    for parameter, value in found[0][3].items():
        assert torch.equal(value, found[1][3][parameter]), parameter


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("cut", [0, 2, 3])
def test_a_backward_of_the_hosts_own_stops_at_the_cut(family, cut):
    """Below the cut no parameter gets a gradient, and none arrives at what enters a layer. What enters the layer at the
    cut may get one, which goes no further."""
    model = make(family)
    reached = set()

    def watch(layer):
        def hook(_module, inputs, _output):
            inputs[0].register_hook(lambda gradient: reached.add(layer) if gradient is not None else None)

        return hook

    policy = {"callback": lambda step, n_layers, trace: cut}
    with FreezeController(model, "callback", policy=policy, optimizer=sgd(model)) as controller:
        for k, layer in enumerate(controller.parts.layers[1:], start=1):
            layer.register_forward_hook(watch(k))
        ids, labels = small.make_batch()
        controller.begin(labels)
        loss_of(model, ids, labels).backward()
        lower = [p.grad for layer in controller.parts.layers[:cut] for p in layer.parameters()]
        upper = [p.grad for layer in controller.parts.layers[cut:] for p in layer.parameters()]
    assert set(range(cut + 1, 4)) <= reached <= set(range(max(cut, 1), 4))
    assert all(gradient is None for gradient in lower)
    assert all(gradient is not None for gradient in upper)


def experts():
    """A small model whose loss looks at the router of every layer."""
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=small.VOCABULARY, num_local_experts=4, output_router_logits=True, router_aux_loss_coef=0.5,
    )  # fmt: skip
    return transformers.MixtralForCausalLM(config).train()


@pytest.mark.parametrize("own", [False, True])
def test_a_gradient_that_comes_down_another_way_is_withheld(own):
    """The loss of a router goes into its layer from the side. Below the cut there is no gradient of it all the same,
    and what a batch before has left there stays; at and above it, gradients are autograd's."""
    model, cuts = experts(), [1, 3]
    batches = [small.make_batch(seed=seed) for seed in range(2)]
    wanted = {}
    for cut, (ids, labels) in zip(cuts, batches):
        model.zero_grad(set_to_none=True)
        loss_of(model, ids, labels).backward()
        for k, layer in enumerate(model.model.layers):
            for p in layer.parameters():
                wanted[p] = wanted.get(p, 0) + (p.grad if k >= cut else 0)
    model.zero_grad(set_to_none=True)
    policy = {"callback": lambda step, n_layers, trace: cuts[step]}
    with FreezeController(model, "callback", policy=policy, optimizer=sgd(model)) as controller:
        for ids, labels in batches:
            controller.begin(labels)
            loss = loss_of(model, ids, labels)
            loss.backward() if own else controller.backward(loss)
        assert all(p.grad is None for p in model.model.layers[0].parameters())
        for layer in model.model.layers[1:]:
            for p in layer.parameters():
                torch.testing.assert_close(p.grad, wanted[p], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_what_stands_outside_of_the_model_has_its_gradient(name):
    """A head of the host's own, in an optimizer that nobody told of, trains beside the model."""
    model = make("llama")
    with controller_of(model, name) as controller:
        other = torch.nn.Linear(small.VOCABULARY, 1)
        ids, labels = small.make_batch()
        controller.begin(labels)
        output = model(input_ids=ids, labels=labels, use_cache=False)
        value = other(output.logits.detach()).square().mean()
        value.backward(retain_graph=True)
        wanted, other.weight.grad = other.weight.grad, None
        controller.backward(output.loss + value)
    torch.testing.assert_close(other.weight.grad, wanted)


@pytest.mark.parametrize("dropped", [False, True])
def test_nothing_holds_the_graph_of_a_batch(dropped):
    """What a forward has saved for its backward is freed with the loss, be the batch trained or dropped."""

    class Saved:
        def __init__(self, tensor):
            self.tensor = tensor

    model, saved = make("llama"), []

    def pack(tensor):
        kept = Saved(tensor.detach())
        saved.append(weakref.ref(kept))
        return kept

    with FreezeController(model, "salf", optimizer=sgd(model)) as controller:
        ids, labels = small.make_batch()
        controller.begin(labels)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
            loss = loss_of(model, ids, labels)
        if dropped:
            controller.drop()
        else:
            controller.backward(loss)
        assert len(saved) > 20
        del loss
        gc.collect()
        assert not any(one() for one in saved)


def test_flags_that_others_set_are_set_again():
    """PEFT sets all of its weights to train when it turns adapters on again, as DPO does at each step."""
    model = make("llama", "lora")
    with FreezeController(model, "half", optimizer=sgd(model)) as controller:
        found = []
        for _ in range(2):
            ids, labels = small.make_batch()
            controller.begin(labels)
            found.append([p.requires_grad for layer in controller.parts.layers for p in layer.parameters()])
            controller.backward(loss_of(model, ids, labels))
            with model.disable_adapter():
                pass
    assert found[0] == found[1]
    assert not all(found[0])


def test_a_batch_that_is_not_trained_is_an_error():
    model = make("llama")
    ids, labels = small.make_batch()
    with FreezeController(model, "salf", optimizer=sgd(model)) as controller:
        optimizer = controller._guard.optimizer
        controller.begin(labels)
        with pytest.raises(RuntimeError, match=r"begin\(\) came again before .*controller.backward\(loss\)"):
            controller.begin(labels)
        loss_of(model, ids, labels)
        with pytest.raises(RuntimeError, match=r"optimizer.step\(\) came before the backward"):
            optimizer.step()
        controller.drop()
        optimizer.step()  # a batch that was dropped on purpose
        controller.begin(labels)
        loss = loss_of(model, ids, labels)
        controller.drop()
        with pytest.raises(RuntimeError, match="a batch that was dropped"):
            loss.backward()
        with pytest.raises(ValueError, match="vectors|shape"):
            controller.begin(labels[0])
        controller.begin(labels)  # one that was refused is not pending
        controller.backward(loss_of(model, ids, labels))
        optimizer.step()


def test_gradients_of_a_batch_that_was_never_begun_are_refused():
    model = make("llama")
    ids, labels = small.make_batch()
    with FreezeController(model, "half", optimizer=sgd(model)) as controller:
        optimizer = controller._guard.optimizer
        loss_of(model, ids, labels).backward()
        with pytest.raises(RuntimeError, match=r"not announced: call begin\(\)"):
            optimizer.step()
        for parameter in model.parameters():  # as some libraries do, to have an optimizer make its state
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()


def test_a_batch_in_which_nothing_trains_needs_no_backward():
    """FreezeOut freezes all layers before the run ends."""
    model = make("llama")
    cuts = []
    with FreezeController(model, "freezeout", policy={"total_steps": 4}, optimizer=sgd(model)) as controller:
        for seed in range(6):
            ids, labels = small.make_batch(seed=seed)
            controller.begin(labels)
            loss = loss_of(model, ids, labels)
            if loss.requires_grad:
                loss.backward()
            controller._guard.optimizer.step()
            controller._guard.optimizer.zero_grad()
            cuts.append(controller.cut)
        assert cuts == [0, 0, 1, 2, 4, 4]
        assert controller.saving == pytest.approx(11 / 24)


def test_forwards_without_gradients_are_not_the_batch():
    """Text generated, or a reference model that shares the layers, between begin() and the forward."""
    model = make("llama")
    ids, labels = small.make_batch()
    with FreezeController(model, "salf", optimizer=sgd(model)) as controller:
        controller.begin(labels)
        with torch.no_grad():
            model(input_ids=ids[:2])
            model.generate(input_ids=ids[:1], max_new_tokens=2, pad_token_id=0)
        loss = loss_of(model, ids, labels)
        with torch.no_grad():
            model(input_ids=ids[:2])
        controller.backward(loss)
        alone = controller.trace
        controller.begin(labels)
        controller.backward(loss_of(model, ids, labels))
        assert (alone.deviations == controller.trace.deviations).all()
        controller.begin(labels)
        loss_of(model, ids, labels)
        with pytest.raises(RuntimeError, match="a second forward of the batch"):
            loss_of(model, ids, labels)


def test_a_closed_controller_begins_nothing():
    model = make("llama")
    ids, labels = small.make_batch()
    controller = FreezeController(model, "salf", optimizer=sgd(model))
    controller.begin(labels)
    loss = loss_of(model, ids, labels)
    controller.close()
    with pytest.raises(RuntimeError, match="controller is closed"):
        controller.begin(labels)
    with pytest.raises(RuntimeError, match="a controller that is closed"):
        loss.backward()


# ---- copies and files ----


@pytest.mark.parametrize("name", METHODS)
def test_a_copy_is_free_of_the_run(name):
    """A deep copy, a pickle and a file of the model, taken in the middle, train as if there had been no controller, and
    what they do the original does not notice."""
    model = make("llama")
    ids, labels = small.make_batch()
    with controller_of(model, name) as controller:
        controller.begin(labels)
        controller.backward(loss_of(model, ids, labels))
        controller._guard.optimizer.step()
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        load = {"weights_only": False} if "weights_only" in torch.load.__doc__ else {}
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, **load)]
        controller.begin(labels)
        for other in copies:
            other.requires_grad_(True)
            with torch.no_grad():
                other.get_output_embeddings().weight.mul_(0.5)
                for layer in other.model.layers:
                    layer.mlp.down_proj.weight.zero_()
            other.zero_grad()
            loss_of(other, ids, labels).backward()
            assert all(p.grad is not None for p in other.parameters())
        controller.backward(loss_of(model, ids, labels))
        controller._guard.optimizer.step()
    changed = loss_of(copies[0], ids, labels)
    assert torch.equal(changed, loss_of(copies[1], ids, labels))
    assert not torch.equal(changed, loss_of(model, ids, labels))


# ---- the Trainer ----


def plain(model, folder, **given):
    return transformers.Trainer(
        model=model,
        args=arguments(folder, **given),
        train_dataset=small.Items(),
        data_collator=transformers.default_data_collator,
    )


def moved_by(trainer):
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.train()
    return {n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])}


@pytest.mark.parametrize("salf", ["salf", "salf[half]", "half", "lisa", "salf[half][stream]", "lift*[half][stream]"])
def test_the_model_is_as_it_was_after_train(tmp_path, salf):
    model = small.make_model("llama")
    flags = {n: p.requires_grad for n, p in model.named_parameters()}
    hooks = {n: len(m._forward_hooks) + len(m._forward_pre_hooks) for n, m in model.named_modules()}
    trainer = make_trainer(tmp_path, salf, model=model)
    trainer.train()
    assert {n: p.requires_grad for n, p in model.named_parameters()} == flags
    assert {n: len(m._forward_hooks) + len(m._forward_pre_hooks) for n, m in model.named_modules()} == hooks
    assert not any("forward" in vars(module) for module in model.modules())
    pickle.dumps(model)
    pickle.dumps(trainer.salf)
    assert 0 < trainer.controller.saving < 1 or salf == "lisa"
    assert moved_by(plain(model, tmp_path)) == set(flags)


@pytest.mark.parametrize("cls", ["trainer", "callback"])
def test_the_model_is_as_it_was_after_an_exception(tmp_path, cls):
    model = small.make_model("llama")

    class Failing(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 2:
                raise KeyboardInterrupt

    if cls == "trainer":
        trainer = make_trainer(tmp_path, "half", model=model)
    else:
        callback = SalfCallback("half")
        trainer = plain(model, tmp_path)
        trainer.add_callback(callback)
    trainer.add_callback(Failing)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    if cls == "callback":
        callback.close()
    assert all(p.requires_grad for p in model.parameters())
    pickle.dumps(model)
    trainer.remove_callback(Failing)
    trainer.train()  # and it can be trained again
    assert all(p.requires_grad for p in model.parameters())


def test_a_forward_that_fails_is_not_pending(tmp_path):
    """As where memory runs out, and the host tries again with less."""

    class Fragile(SalfTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            if not hasattr(self, "failed"):
                self.failed = True
                raise RuntimeError("CUDA out of memory. Tried to allocate")
            return super().compute_loss(model, inputs, *args, **kwargs)

    trainer = make_trainer(tmp_path, "salf[half]", cls=Fragile, auto_find_batch_size=True)
    trainer.train()
    assert trainer.plan.finished
    assert trainer.plan.batch < 4


def test_a_second_train_says_that_it_starts_anew(tmp_path, caplog):
    trainer = make_trainer(tmp_path, "salf[half]")
    trainer.train()
    first = trainer.controller
    trainer.train()
    assert "train() again: a new run" in caplog.text
    assert trainer.controller is not first
    assert trainer.plan.finished
    assert trainer.controller.steps == first.steps > 0


def test_one_config_sweeps_seeds(tmp_path):
    config, counts = SalfConfig("salf[half]"), []
    for seed in (1, 2):
        trainer = make_trainer(tmp_path, config, seed=seed)
        trainer.train()
        counts.append(trainer.controller.saving)
    assert counts[0] == counts[1] > 0
