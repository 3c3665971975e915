/* Every function of salf.h through the binding, with values worked out by hand, in the styles the compiler allows. */
#include <unistd.h>

#include <array>
#include <cmath>
#include <cstdlib>

#include "cases.hpp"

using cases::take;

namespace {

using returning = salf::returning;
const std::vector<std::int32_t> labels{1, 2, 3, 4};

/* A file that is gone with its scope. */
struct file {
    explicit file(const char *ending) {
        const char *folder = std::getenv("TMPDIR");
        path = std::string(folder ? folder : "/tmp") + "/salf_cpp_" + std::to_string(getpid()) + ending;
    }
    ~file() { std::remove(path.c_str()); }
    std::string path;
};

template <class Errors> void versions_and_constants() {
    CHECK(salf::version_number() == SALF_VERSION_MAJOR * 10000 + SALF_VERSION_MINOR * 100 + SALF_VERSION_PATCH);
    CHECK(std::strchr(salf::version_string(), '.') != nullptr);
    CHECK(std::strcmp(salf::status_text(SALF_E_SHAPE), "shapes disagree") == 0);
    CHECK(take(salf::constant<Errors>("SALF_METRIC_RANK")) == SALF_METRIC_RANK);
    CHECK(take(salf::constant<Errors>(std::string("SALF_E_STALE"))) == SALF_E_STALE);
    CHECK_STATUS(salf::constant<Errors>("SALF_NO_SUCH"), SALF_E_NOT_FOUND, "SALF_NO_SUCH");
    CHECK(std::strcmp(salf::constant_word("SALF_METRIC", SALF_METRIC_CE), "ce") == 0);
    CHECK(!salf::constant_word(std::string("SALF_METRIC"), 3) && !salf::constant_word("SALF_NO_SUCH", 0));
}

template <class Errors> void methods() {
    std::int32_t n = 0;
    for (; salf::method_name(n) != nullptr; n++)
        static_cast<void>(take(salf::method_find<Errors>(salf::method_name(n))));
    CHECK(n == 14 && std::strcmp(salf::method_name(0), "lora[full]") == 0);
    const salf::method found = take(salf::method_find<Errors>(std::string("salf[arith][df][rank]")));
    CHECK(found.policy == SALF_POLICY_BUDGET && found.growth == SALF_GROWTH_ARITHMETIC &&
          found.infill == SALF_INFILL_DEPTH && found.matching == SALF_MATCH_ONLINE && found.probes == 1 &&
          found.metric == SALF_METRIC_RANK);
    CHECK_STATUS(salf::method_find<Errors>("salf[quarter]"), SALF_E_NOT_FOUND, "salf[quarter]");
}

template <class Errors> void contexts() {
    const auto context = make_context<Errors>();
    const salf::context_info info = take(context.info());
    CHECK(info.backend == SALF_BACKEND_REFERENCE && std::strcmp(info.backend_name, "reference") == 0);
    CHECK_OK(context.agree());
    CHECK(!salf::basic_context<salf::returning>::create(salf::context_options{})->agree(SALF_E_IO));
    salf::context_options bad;
    bad.backend = 77;
    CHECK_STATUS(salf::basic_context<Errors>::create(bad), SALF_E_ARGUMENT, "77");
}

template <class Errors> void checkpoints() {
    using checkpoint = salf::basic_checkpoint<Errors>;
    const auto context = make_context<Errors>();
    char folder[] = "/tmp/salf-cpp-XXXXXX";
    CHECK(mkdtemp(folder) != nullptr);
    const salf_identity made_of[] = {{"seed", "1", 0}}, others[] = {{"seed", "2", 0}};
    std::vector<float> values{1, 2}, back(2);
    const salf_named_tensor out[] = {salf::named("x", salf::tensor_view(values.data(), 1, 2))};
    const salf_named_tensor in[] = {salf::named("x", salf::mutable_view(back.data(), 1, 2))};
    salf::checkpoint_content content;
    content.tensors = out;
    content.n_tensors = 1;
    {
        auto run = take(checkpoint::open(context, folder, made_of));
        CHECK_STATUS(checkpoint::open(context, folder, made_of), SALF_E_BUSY, "in use by process");
        CHECK_STATUS(run.load(content), SALF_E_NOT_FOUND, "no checkpoint");
        CHECK_OK(run.save(content));
    }
    CHECK_STATUS(checkpoint::open(context, folder, others), SALF_E_MISMATCH, "seed 1");
    auto run = take(checkpoint::open(context, folder, made_of));
    content.tensors = in;
    CHECK_OK(run.load(content));
    CHECK(back == values && take(run.get_info()).saves == 1);
    CHECK(std::system((std::string("rm -r ") + folder).c_str()) == 0);
}

template <class Errors> void tensor_files() {
    using tensors = salf::basic_tensors<Errors>;
    const auto context = make_context<Errors>();
    const file there(".safetensors");
    const std::vector<float> values{1, 2, 3, 4, 5, 6};
    const salf_named_tensor some[] = {salf::named("a", salf::tensor_view(values.data(), 2, 3)),
                                      salf::named("b", salf::tensor_view(values.data(), 1, 2))};
    const char *const metadata[] = {"made by", "a test"};
    CHECK_OK(tensors::save(context, there.path, some, metadata));
    CHECK_STATUS(tensors::save(context, there.path, some, salf::span<const char *const>(metadata, 1)), SALF_E_SHAPE,
                 "1");
    const auto opened = take(tensors::open(context, there.path));
    CHECK(opened.count() == 2 && std::strcmp(opened.metadata("made by"), "a test") == 0);
    CHECK(opened.metadata("nothing") == nullptr);
    CHECK(std::strcmp(take(opened.at(1)).name, "b") == 0);
    const salf_named_tensor found = take(opened.find("a"));
    CHECK(found.n_dims == 2 && found.shape[1] == 3 && static_cast<const float *>(found.view.data)[5] == 6);
    CHECK_STATUS(opened.find("c"), SALF_E_NOT_FOUND, "c");
    const std::byte bytes[2] = {std::byte{1}, std::byte{2}};
    CHECK_OK(salf::save_file<Errors>(there.path, bytes));
    CHECK(take(salf::hash_file<Errors>(there.path, 3)) == salf::hash(bytes, 3));
    CHECK_STATUS(salf::hash_file<Errors>("/nonexistent/x"), SALF_E_NOT_FOUND, "/nonexistent/x");
    CHECK_STATUS(tensors::open(context, there.path), SALF_E_TRUNCATED, "2 bytes");
    CHECK_STATUS(salf::save_file<Errors>("/nonexistent/x", bytes), SALF_E_IO, "/nonexistent/x");
    CHECK_STATUS(tensors::open(context, there.path + "-not"), SALF_E_NOT_FOUND, "-not");
}

template <class Errors> void models() {
    using model = salf::basic_model<Errors>;
    const identity_head head;
    const auto context = make_context<Errors>();
    const auto described = take(model::create(context, head.options()));
    CHECK(take(described.info()).hidden == HIDDEN && take(described.info()).n_layers == LAYERS);
    CHECK(!described.tensors() && described.tensors().count() == 0);
    identity_head other;
    other.values[1] = 1;
    const auto changed = take(model::create(context, other.options()));
    CHECK(take(described.fingerprint()) == take(described.fingerprint()));
    CHECK(take(described.fingerprint()) != take(changed.fingerprint()));
    auto live = take(model::create(context, head.options()));
    CHECK_OK(live.update({}));
    CHECK_STATUS(live.update(head.options()), SALF_E_ARGUMENT, "is set");
    const auto opened = take(model::open(context, "examples/demo/model"));
    CHECK(opened.tensors() && opened.tensors().count() > 3);
    CHECK(take(opened.tensors().at(0)).name != nullptr);
    CHECK(take(opened.decoder()).rope == SALF_ROPE_DEFAULT && take(opened.decoder()).unsupported == nullptr);
    CHECK_STATUS(described.decoder(), SALF_E_UNSUPPORTED, "described");
    CHECK_STATUS(model::open(context, "examples/demo/nothing"), SALF_E_NOT_FOUND, "nothing");
}

/* Row l of the basis of an identity head is e_l. */
template <class Errors> void check_rows(const salf::basic_basis<Errors> &basis) {
    std::array<double, 2 * HIDDEN> rows{};
    const std::array<std::int32_t, 2> asked{4, 1};
    CHECK_OK(basis.rows(asked, salf::mutable_view(rows.data(), 2, HIDDEN)));
    for (std::size_t i = 0; i < rows.size(); i++) CHECK(std::abs(rows[i] - (i == 4 || i == HIDDEN + 1)) < 1e-12);
}

template <class Errors> void bases() {
    using basis = salf::basic_basis<Errors>;
    const identity_head head;
    const file there(".basis");
    const auto context = make_context<Errors>();
    const auto model = take(salf::basic_model<Errors>::create(context, head.options()));
    const auto made = take(basis::create(model, labels));
    check_rows(made);
    CHECK(take(made.info()).rank == HIDDEN && take(made.info()).n_labels == 4);
    const auto held = take(made.labels());
    CHECK(held.size() == 4 && held[0] == 1 && held[3] == 4);
    CHECK_OK(made.check(model));
    CHECK_OK(made.save(there.path));
    check_rows(take(basis::load(context, there.path)));
    check_rows(take(basis::load(context, there.path, model)));
    check_rows(take(made.refresh(model)));

    identity_head other;
    other.values[0] = 2;
    const auto changed = take(salf::basic_model<Errors>::create(context, other.options()));
    CHECK_STATUS(made.check(changed), SALF_E_STALE, "");
    CHECK_STATUS(basis::load(context, there.path, changed), SALF_E_STALE, "");
    CHECK_STATUS(basis::create(model, std::vector<std::int32_t>{VOCAB}), SALF_E_LABEL, "8");
}

template <class Errors> void builders() {
    using builder = salf::basic_basis_builder<Errors>;
    const identity_head head;
    const auto context = make_context<Errors>();
    auto first = take(builder::create(context, VOCAB, HIDDEN, labels));
    auto second = take(builder::create(context, VOCAB, HIDDEN, labels));
    CHECK_OK(first.add(0, salf::tensor_view(head.values, 3, HIDDEN)));
    CHECK_STATUS(first.finish(), SALF_E_SEQUENCE, "3");
    CHECK_OK(second.add(3, salf::tensor_view(head.values + 3 * HIDDEN, VOCAB - 3, HIDDEN)));
    const salf::span<double> partial = take(second.partial());
    CHECK(partial.size() >= HIDDEN * HIDDEN);
    CHECK_OK(first.merge(second));
    CHECK_OK(first.all_reduce());
    check_rows(take(first.finish()));
    const auto model = take(salf::basic_model<Errors>::create(context, head.options()));
    check_rows(take(first.finish(model)));
}

/* States that turn from e_0 to the label's e_l after layer `turn`: all the gain is there. */
struct turning_states {
    explicit turning_states(int turn_at) : turn(turn_at) {}
    const float *operator()(int space) {
        for (std::size_t r = 0; r < labels.size(); r++)
            for (int i = 0; i < HIDDEN; i++)
                values[r * HIDDEN + static_cast<std::size_t>(i)] = i == (space > turn ? labels[r] : 0);
        return values;
    }
    int turn;
    float values[4 * HIDDEN];
};

template <class Errors> salf::basic_basis<Errors> make_basis(const identity_head &head) {
    const auto context = make_context<Errors>(); /* kept alive by what is made from it */
    const auto model = take(salf::basic_model<Errors>::create(context, head.options()));
    return take(salf::basic_basis<Errors>::create(model, labels));
}

template <class Errors> void observe(salf::basic_probe<Errors> &probe, turning_states states, int spaces = LAYERS + 1) {
    CHECK_OK(probe.begin(labels));
    for (int space = 0; space < spaces; space++)
        CHECK_OK(probe.observe(space, salf::tensor_view(states(space), 4, HIDDEN)));
}

template <class Errors> void probes() {
    const identity_head head;
    auto probe = take(salf::basic_probe<Errors>::create(make_basis<Errors>(head)));
    observe(probe, turning_states(3));
    CHECK_OK(probe.flush());
    while (!take(probe.poll())) {
    }
    const salf::trace found = take(probe.end());
    CHECK(found.rows == 4 && found.eofs().size() == 4);
    for (const std::int32_t eof : found.eofs()) CHECK(eof == 3);
    CHECK(found.gains_of(3).size() == LAYERS && std::abs(found.gains_of(3)[3] - 1) < 1e-6);
    CHECK(found.deviations_of(2).size() == LAYERS + 1);
    CHECK(std::abs(found.deviations_of(2)[3] - 1) < 1e-6 && std::abs(found.deviations_of(2)[4]) < 1e-6);

    observe(probe, turning_states(1), 3);
    CHECK_STATUS(probe.end(), SALF_E_SEQUENCE, "");
    const salf::trace part = take(probe.partial());
    CHECK(std::abs(part.deviations_of(0)[2]) < 1e-6 && std::isnan(part.deviations_of(0)[3]));
    CHECK(part.gains_of(0).empty() && part.eofs().empty());
    CHECK_STATUS(probe.replay(), SALF_E_UNSUPPORTED, "");
    CHECK_STATUS(probe.observe(99, salf::tensor_view(head.values, 4, HIDDEN)), SALF_E_SEQUENCE, "");
}

template <class Errors> void losses() {
    const identity_head head;
    auto loss = take(salf::basic_loss<Errors>::create(make_basis<Errors>(head)));
    turning_states states(0);
    const salf::tensor_view wrong(states(0), 4, HIDDEN);
    std::vector<float> values(4), gradient(4 * HIDDEN);
    CHECK_OK(loss.compute(labels, wrong, values, salf::mutable_view(gradient.data(), 4, HIDDEN), 2.0));
    for (const float value : values) CHECK(std::abs(value - 1) < 1e-6f);
    CHECK(std::abs(gradient[1] + 2) < 1e-6f && std::abs(gradient[2 * HIDDEN + 3] + 2) < 1e-6f); /* -scale e_l */
    const salf::tensor_view right(states(1), 4, HIDDEN);
    CHECK_OK(loss.compute(labels, right, salf::mutable_view(values.data(), 4, 1)));
    for (const float value : values) CHECK(std::abs(value) < 1e-6f);
    CHECK_STATUS(loss.compute(salf::span<const std::int32_t>(labels.data(), 3), right, values), SALF_E_SHAPE, "3");
    std::vector<float> short_one(3);
    CHECK_STATUS(loss.compute(labels, right, short_one), SALF_E_SHAPE, "3");
}

template <class Errors> void traces_by_hand() {
    const std::vector<double> deviations{1, 0.5, 0.4, 1, 0.9, 0.2};
    std::vector<std::int32_t> eof(2);
    std::vector<double> gains(4);
    CHECK_OK(salf::eof_from_deviations<Errors>(2, deviations, eof, gains));
    CHECK(eof[0] == 0 && eof[1] == 1 && gains[0] == 0.5);
    CHECK_OK(salf::eof_from_deviations<Errors>(2, deviations, eof, {}, SALF_EOF_LEAST_GAIN));
    CHECK(eof[0] == 1 && eof[1] == 0);
    CHECK_STATUS(salf::eof_from_deviations<Errors>(3, deviations, eof), SALF_E_SHAPE, "6 elements, not 8");
    gains.pop_back();
    CHECK_STATUS(salf::eof_from_deviations<Errors>(2, deviations, eof, gains), SALF_E_SHAPE, "3 elements, not 4");
}

template <class Errors> void offline_plan() {
    const auto context = make_context<Errors>();
    salf::planner_options options;
    options.matching = SALF_MATCH_OFFLINE;
    auto planner = take(salf::basic_planner<Errors>::create(context, 2, 5, options));
    std::array<std::int64_t, 2> counts{};
    CHECK_OK(planner.counts(counts));
    CHECK(counts[0] == 3 && counts[1] == 2 && std::abs(take(planner.saving()) - 0.2) < 1e-12);
    std::array<std::int64_t, 3> too_many{};
    CHECK_STATUS(planner.counts(too_many), SALF_E_SHAPE, "3 elements, not 2");
    CHECK_STATUS(planner.match(), SALF_E_SEQUENCE, "");
    CHECK_OK(planner.set_eof(0, std::vector<std::int32_t>{1, 0, 0}));
    CHECK_OK(planner.set_eof(3, std::vector<std::int32_t>{1, 0}));
    CHECK_OK(planner.match());
    const salf::stage stage = take(planner.get_stage(0));
    CHECK(stage.matched == 3 && stage.ids().size() == 3 && stage.ids()[0] == 1 && stage.ids()[2] == 4);
    CHECK_STATUS(planner.get_stage(2), SALF_E_ARGUMENT, "2");
}

template <class Errors> void online_plan() {
    const auto context = make_context<Errors>();
    salf::planner_options all;
    all.probe_limit = SALF_PROBE_ALL;
    auto planner = take(salf::basic_planner<Errors>::create(context, 2, 4, all));
    const salf::task probed = take(planner.next(3));
    CHECK(probed.kind == SALF_TASK_PROBE && probed.ids().size() == 3 && probed.ids()[2] == 2);
    std::array<std::uint8_t, 3> accepted{};
    std::array<std::uint8_t, 2> short_one{};
    CHECK_STATUS(planner.report(std::vector<std::int32_t>{1, 0, 1}, short_one), SALF_E_SHAPE, "2 elements, not 3");
    CHECK_OK(planner.report(std::vector<std::int32_t>{1, 0, 1}, accepted));
    CHECK(!accepted[0] && accepted[1] && !accepted[2]);
    const std::vector<std::byte> state = take(planner.save());
    CHECK(take(planner.save_size()) == state.size());
    std::vector<std::byte> same(state.size());
    CHECK(take(planner.save_to(same)) == state.size() && same == state);
    CHECK_STATUS(planner.save_to({}), SALF_E_BUFFER, "");
    CHECK_OK(planner.done());

    auto again = take(salf::basic_planner<Errors>::create(context, 2, 4, all));
    CHECK_OK(again.load(state));
    const salf::task resumed = take(again.next(3));
    CHECK(resumed.kind == SALF_TASK_TRAIN && resumed.ids().size() == 1 && resumed.ids()[0] == 1);
    same.pop_back();
    CHECK_STATUS(again.load(same), SALF_E_TRUNCATED, "");
}

template <class Errors> void streaming_plan() {
    const auto context = make_context<Errors>();
    salf::planner_options options;
    options.matching = SALF_MATCH_STREAM;
    options.assignment = SALF_ASSIGN_EOF;
    auto planner = take(salf::basic_planner<Errors>::create(context, 2, 4, options));
    const std::vector<std::int32_t> groups{7, 8}, rows{7, 7, 8, 8};
    CHECK_STATUS(planner.set_groups(groups, std::vector<std::int64_t>{4}), SALF_E_SHAPE, "1 elements, not 2");
    CHECK_OK(planner.set_groups(groups, std::vector<std::int64_t>{2, 2}));
    CHECK(take(planner.next(4)).eofs().empty());
    const std::vector<std::int32_t> eof{1, 0, 1, 0};
    salf::trace found;
    found.rows = 4;
    found.n_layers = 2;
    found.eof = eof.data();
    CHECK_STATUS(planner.assign(found, groups), SALF_E_SHAPE, "2 elements, not 4");
    const salf::task cut = take(planner.assign(found, rows));
    CHECK(cut.kind == SALF_TASK_TRAIN && cut.layer == 0 && cut.eofs().size() == 4);
    CHECK(cut.eofs()[0] == 1 && cut.eofs()[1] == 0 && cut.eofs()[2] == 1 && cut.eofs()[3] == 0);
    CHECK_OK(planner.done());
    CHECK(take(planner.next(4)).kind == SALF_TASK_DONE);
}

template <class Errors> void signals() {
    const auto context = make_context<Errors>();
    salf::signal_options options;
    CHECK_STATUS(salf::basic_signal<Errors>::create(context, options), SALF_E_ARGUMENT, "n_layers is 0");
    options.n_layers = 2;
    auto signal = take(salf::basic_signal<Errors>::create(context, options));
    const std::vector<std::int32_t> eof{1, 0}, groups{5, 6}, cuts{1, 2};
    const std::vector<double> gains{0, 1, 1, 0};
    salf::trace found;
    found.rows = 2;
    found.n_layers = 2;
    found.eof = eof.data();
    found.gains = gains.data();
    CHECK_STATUS(signal.add(found, std::vector<std::int32_t>{1}), SALF_E_SHAPE, "1 elements, not 2");
    CHECK_OK(signal.add(found, groups, {}, cuts));
    CHECK_OK(signal.add(found));
    const salf::signal_info info = take(signal.get_info());
    CHECK(info.rows == 4 && info.grouped_rows == 2 && info.n_groups == 2 && info.trained == 1);
    CHECK(info.group_share == 1 && info.group_chance == 1 && info.matched_share == 1);
}

template <class Errors> void policies() {
    using policy = salf::basic_policy<Errors>;
    const identity_head head;
    const auto basis = make_basis<Errors>(head);
    const auto context = make_context<Errors>();
    auto probe = take(salf::basic_probe<Errors>::create(basis));
    salf::policy_options options;
    options.reduction = SALF_REDUCE_PREFIX;
    auto by_trace = take(policy::create(context, SALF_POLICY_SALF, LAYERS, options));
    observe(probe, turning_states(3));
    const salf::decision first = take(by_trace.decide(0, take(probe.end())));
    CHECK(first.cut == 3 && first.has_rows() && first.rows_of(3).size() == 4 && first.rows_of(2).empty());
    CHECK(first.trains(3) && !first.trains(2) && first.rates().size() == LAYERS && first.rates()[5] == 1);
    CHECK(first.layers_added().size() == 3 && first.layers_removed().empty() && first.layers_reset().empty());
    CHECK(first.eofs().size() == 4 && first.eofs()[3] == 3);
    CHECK_STATUS(by_trace.decide(1), SALF_E_NULL, "trace");

    auto half = take(policy::create(context, SALF_POLICY_HALF, LAYERS));
    const salf::decision second = take(half.decide(5));
    CHECK(second.cut == LAYERS / 2 && !second.has_rows() && second.rows_of(5).empty());
    CHECK_STATUS(half.decide(4), SALF_E_SEQUENCE, "4");
    const std::vector<std::byte> state = take(half.save());
    auto other = take(policy::create(context, SALF_POLICY_HALF, LAYERS));
    CHECK_OK(other.load(state));
    CHECK(take(other.decide(5)).layers_added().empty());

    auto by_norm = take(policy::create(context, SALF_POLICY_RGN, 2));
    const std::array<double, 2> gradients{1, 2}, parameters{1, 1};
    salf::observation seen;
    seen.gradient_norm = gradients.data();
    seen.parameter_norm = parameters.data();
    CHECK(take(by_norm.decide(seen)).rates()[0] == 0.5);
}

template <class Errors> void budgets() {
    const auto context = make_context<Errors>();
    salf::planner_options how;
    how.matching = SALF_MATCH_NONE;
    salf::policy_options options;
    auto planner = take(salf::basic_planner<Errors>::create(context, 2, 4, how));
    options.set_planner(planner);
    auto policy = take(salf::basic_policy<Errors>::create(context, SALF_POLICY_BUDGET, 2, options));
    CHECK(take(planner.next(2)).ids().size() == 2);
    CHECK(take(policy.decide(0)).cut == 0);
    CHECK_OK(planner.done());
    CHECK(take(planner.next(2)).layer == 1 && take(policy.decide(1)).cut == 1);
}

template <class Errors> void costs() {
    salf::cost_options options;
    CHECK_STATUS(salf::cost_estimate<Errors>(options), SALF_E_ARGUMENT, "");
    options.n_layers = LAYERS;
    options.hidden = HIDDEN;
    options.ffn_hidden = 4 * HIDDEN;
    options.vocab = VOCAB;
    options.n_heads = 2;
    options.rows = 4;
    options.row_tokens = 3;
    options.cut = 3;
    const salf::cost cost = take(salf::cost_estimate<Errors>(options));
    CHECK(std::abs(cost.depth_saving - 0.5) < 1e-12 && cost.total < cost.full_total && cost.forward > 0);
}

} // namespace

/* Each in the style of results, and by exceptions where there are any. */
#ifdef __cpp_exceptions
#define BOTH(name)              \
    CASE(name##_returning) {    \
        name<returning>();      \
    }                           \
    CASE(name##_throwing) {     \
        name<salf::throwing>(); \
    }
#else
#define BOTH(name)           \
    CASE(name##_returning) { \
        name<returning>();   \
    }
#endif

BOTH(versions_and_constants)
BOTH(methods)
BOTH(contexts)
BOTH(checkpoints)
BOTH(tensor_files)
BOTH(models)
BOTH(bases)
BOTH(builders)
BOTH(probes)
BOTH(losses)
BOTH(traces_by_hand)
BOTH(offline_plan)
BOTH(online_plan)
BOTH(streaming_plan)
BOTH(signals)
BOTH(policies)
BOTH(budgets)
BOTH(costs)

int main() {
    return cases::main();
}
