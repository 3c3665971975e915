/* Callbacks: any callable, kept alive, and what goes wrong in them arrives where the call was made. */
#include <atomic>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>

#include "cases.hpp"

using cases::take;

namespace {

const std::vector<std::int32_t> labels{1, 2};

/* Rows of an identity head. */
void identity_rows(std::int64_t first, std::int64_t count, float *out) {
    for (std::int64_t i = 0; i < count * HIDDEN; i++) out[i] = i % HIDDEN == first + i / HIDDEN ? 1.0f : 0.0f;
}

template <class F> salf::model_options rows_from(F function) {
    salf::model_options options = identity_head().options();
    options.head = {};
    options.set_head_rows(std::move(function));
    return options;
}

/* A basis whose head comes from a callback. */
template <class Errors, class F> auto basis_from(F function) {
    const auto model = take(salf::basic_model<Errors>::create(make_context<Errors>(), rows_from(std::move(function))));
    return salf::basic_basis<Errors>::create(model, labels);
}

template <class Errors, class F> auto decide_by(F function, const salf_trace *trace = nullptr) {
    salf::policy_options options;
    options.set_callback(std::move(function));
    const auto context = make_context<Errors>();
    auto policy = take(salf::basic_policy<Errors>::create(context, SALF_POLICY_CALLBACK, LAYERS, options));
    return trace ? policy.decide(0, *trace) : policy.decide(0);
}

template <class Errors, class F> auto merged_by(F all_reduce) {
    salf::context_options options;
    options.backend = SALF_BACKEND_REFERENCE;
    options.set_communicator(0, 2, std::move(all_reduce));
    const auto context = take(salf::basic_context<Errors>::create(options));
    auto builder = take(salf::basic_basis_builder<Errors>::create(context, VOCAB, HIDDEN, labels));
    return builder.all_reduce();
}

/* A context that logs a line when made: the cuda backend is asked for by AUTO and not there, or by name. */
salf::context_options logging() {
    salf::context_options options;
    options.plugin_path = "/no/such/plugin.so";
    return options;
}

} // namespace

/* A basis of a context that tells its progress to function at every step. */
template <class Errors, class F> auto basis_watched_by(F function) {
    salf::context_options options;
    options.backend = SALF_BACKEND_CPU;
    options.set_progress(std::move(function), -1);
    const auto context = take(salf::basic_context<Errors>::create(options));
    const auto model = take(salf::basic_model<Errors>::create(context, identity_head().options()));
    return salf::basic_basis<Errors>::create(model, labels);
}

CASE(progress_is_told_to_any_callable_and_ends_a_call) {
    std::string seen;
    CHECK_OK(basis_watched_by<salf::errors>([&seen](const char *what, std::int64_t done, std::int64_t total) {
        CHECK(done <= total);
        seen += what;
    }));
    CHECK(seen.find("Gram matrix") != std::string::npos);
    const auto ended =
        basis_watched_by<salf::returning>([](const char *, std::int64_t, std::int64_t) -> std::int32_t { return 1; });
    CHECK(ended.status() == SALF_E_CANCELLED);
#ifdef __cpp_exceptions
    try {
        basis_watched_by<salf::throwing>(
            [](const char *, std::int64_t, std::int64_t) { throw std::runtime_error("enough"); });
        CHECK(false);
    } catch (const std::runtime_error &error) {
        CHECK(std::string(error.what()) == "enough");
    }
#endif
}

CASE(rows_come_from_any_callable) {
    int calls = 0;
    CHECK_OK(basis_from<salf::errors>([&calls](std::int64_t first, std::int64_t count, float *out) {
        calls++;
        identity_rows(first, count, out);
    }));
    CHECK(calls > 0);
    CHECK_OK(basis_from<salf::errors>(&identity_rows));
    CHECK_OK(basis_from<salf::errors>([](std::int64_t first, std::int64_t count, float *out) -> std::int32_t {
        return identity_rows(first, count, out), 0;
    }));
    /* Move-only, and used long after the options and the model are gone. */
    auto mine = std::make_unique<int>(0);
    int *calls_of_mine = mine.get();
    salf::basis basis = take(basis_from<salf::errors>(
        [mine = std::move(mine)](std::int64_t first, std::int64_t count, float *out) -> salf::result<void> {
            ++*mine;
            identity_rows(first, count, out);
            return {};
        }));
    const int before = *calls_of_mine;
    std::vector<double> rows(HIDDEN);
    CHECK_OK(
        basis.rows(std::vector<std::int32_t>{7}, take(salf::matrix(rows, HIDDEN)))); /* 7 is not held: solved now */
    CHECK(*calls_of_mine > before && rows[7] == 1);
}

CASE(embedding_rows_too) {
    salf::model_options options = rows_from(&identity_rows);
    options.set_embedding_rows([](std::int64_t first, std::int64_t count, float *out) {
        identity_rows(first, count, out);
        for (std::int64_t i = 0; i < count * HIDDEN; i++) out[i] *= 3;
    });
    const auto model = take(salf::model::create(make_context<salf::errors>(), options));
    salf::basis_options side;
    side.side = SALF_SIDE_INPUT;
    std::vector<double> rows(HIDDEN);
    const auto basis = take(salf::basis::create(model, labels, side));
    CHECK_OK(basis.rows(std::vector<std::int32_t>{2}, take(salf::matrix(rows, HIDDEN))));
    CHECK(rows[2] == 3);
}

CASE(errors_of_callbacks_are_those_of_the_call) {
    CHECK_STATUS(basis_from<salf::returning>([](std::int64_t, std::int64_t, float *) { return std::int32_t{5}; }),
                 SALF_E_CALLBACK, "returned 5");
    CHECK_STATUS(basis_from<salf::returning>([](std::int64_t, std::int64_t, float *) -> salf::result<void> {
                     return salf::error(SALF_E_IO, "the disk is gone");
                 }),
                 SALF_E_IO, "the disk is gone");
    CHECK_STATUS(merged_by<salf::returning>([](void *, std::int64_t, std::int32_t, std::int32_t) -> salf::result<void> {
                     return salf::error(SALF_E_DEVICE, "link down");
                 }),
                 SALF_E_DEVICE, "link down");
    CHECK_STATUS(
        decide_by<salf::returning>([](std::int64_t, std::int32_t, const salf::trace *) -> salf::result<std::int32_t> {
            return salf::error(SALF_E_TRUNCATED, "no cut today");
        }),
        SALF_E_TRUNCATED, "no cut today");
    CHECK_STATUS(decide_by<salf::returning>([](auto...) { return std::int32_t{99}; }), SALF_E_CALLBACK, "99");
}

CASE(cuts_come_from_any_callable) {
    const double gains[LAYERS] = {}, deviations[LAYERS + 1] = {};
    const std::int32_t eof[] = {4};
    salf::trace trace;
    trace.rows = 1;
    trace.n_layers = LAYERS;
    trace.gains = gains;
    trace.deviations = deviations;
    trace.eof = eof;
    const auto by_trace = [](std::int64_t step, std::int32_t n_layers, const salf::trace *seen) -> std::int32_t {
        return seen ? seen->eofs()[0] : n_layers - 1 + static_cast<std::int32_t>(step);
    };
    CHECK(take(decide_by<salf::errors>(by_trace, &trace)).cut == 4);
    CHECK(take(decide_by<salf::errors>(by_trace)).cut == LAYERS - 1);
    CHECK(
        take(decide_by<salf::errors>([](std::int64_t, std::int32_t, const salf_trace *) -> salf::result<std::int32_t> {
            return 2;
        })).cut == 2);
}

CASE(communicators_are_called) {
    int sums = 0;
    CHECK_OK(merged_by<salf::errors>([&sums](void *numbers, std::int64_t n, std::int32_t type, std::int32_t operation) {
        CHECK(n > 0 && (operation == SALF_ALL_REDUCE_SUM ? type == SALF_F64 : type == SALF_I64));
        sums += operation == SALF_ALL_REDUCE_SUM;
        if (operation == SALF_ALL_REDUCE_MIN) static_cast<std::int64_t *>(numbers)[4] = -1; /* of rank 1 */
    }));
    CHECK(sums == 1);
    salf::context_options options;
    options.set_communicator(1, 3, [](void *, std::int64_t n, std::int32_t, std::int32_t operation) {
        return static_cast<std::int32_t>(n) + operation;
    });
    CHECK(options.rank == 1 && options.ranks == 3 &&
          options.all_reduce(options.communicator_user, nullptr, 4, SALF_F64, 2) == 6);
}

CASE(logs_are_passed_on) {
    std::vector<std::string> lines;
    {
        salf::context_options options = logging();
        options.set_log(
            [&lines](std::int32_t level, const char *line) {
                CHECK(level == SALF_LOG_INFO);
                lines.push_back(line);
            },
            SALF_LOG_INFO);
        CHECK_OK(salf::context::create(options));
    }
    CHECK(lines.size() == 1 && lines[0].find("no cuda") != std::string::npos);
}

CASE(callables_live_as_long_as_what_needs_them) {
    const auto token = std::make_shared<int>(1);
    {
        salf::probe probe;
        {
            const auto rows = [token](std::int64_t first, std::int64_t count, float *out) {
                identity_rows(first, count, out);
            };
            probe = take(salf::probe::create(take(basis_from<salf::errors>(rows))));
        }
        CHECK(token.use_count() == 2);
    }
    CHECK(token.use_count() == 1);
    salf::policy policy;
    {
        salf::context_options options;
        options.set_log([token](std::int32_t, const char *) {});
        const auto planner = take(salf::planner::create(take(salf::context::create(options)), 2, 4));
        salf::policy_options budget;
        budget.set_planner(planner);
        policy = take(salf::policy::create(make_context<salf::errors>(), SALF_POLICY_BUDGET, 2, budget));
    }
    CHECK(token.use_count() == 2);
    policy = salf::policy();
    CHECK(token.use_count() == 1);
}

CASE(calls_from_c_see_a_status) {
    const auto model = take(salf::model::create(
        make_context<salf::errors>(), rows_from([](std::int64_t, std::int64_t, float *) -> salf::result<void> {
            return salf::error(SALF_E_IO, "lost");
        })));
    salf_basis *raw = nullptr;
    CHECK(salf_basis_create(&raw, model.get(), labels.data(), 2, nullptr) == SALF_E_CALLBACK && !raw);
    CHECK_OK(salf::planner::create(make_context<salf::errors>(), 2, 4)); /* nothing is left over for a later call */
}

#ifdef __cpp_exceptions

namespace {

struct own_trouble {
    int value;
};

/* Whether a call throws just what the callback threw, in both styles, and the same call works afterwards. */
template <class F> bool rethrows(F &&call) {
    try {
        static_cast<void>(call());
    } catch (const own_trouble &thrown) {
        return thrown.value == 42;
    }
    return false;
}

const auto throwing_rows = [](std::int64_t, std::int64_t, float *) { throw own_trouble{42}; };
const auto throwing_cut = [](std::int64_t, std::int32_t, const salf::trace *) -> std::int32_t {
    throw own_trouble{42};
};
const auto throwing_sum = [](void *, std::int64_t, std::int32_t, std::int32_t) { throw own_trouble{42}; };

salf::context_options failing_memory(std::shared_ptr<int> left) {
    salf::context_options options;
    options.backend = SALF_BACKEND_REFERENCE;
    options.set_allocator(
        [left](std::size_t size, std::size_t align) {
            if (--*left < 0) throw own_trouble{42};
            return std::aligned_alloc(align, (size + align - 1) / align * align);
        },
        [](void *block, std::size_t) { std::free(block); });
    return options;
}

} // namespace

CASE(exceptions_cross_the_library) {
    CHECK(rethrows([] { return basis_from<salf::throwing>(throwing_rows); }));
    CHECK(rethrows([] { return basis_from<salf::returning>(throwing_rows); }));
    CHECK(rethrows([] { return decide_by<salf::throwing>(throwing_cut); }));
    CHECK(rethrows([] { return decide_by<salf::returning>(throwing_cut); }));
    CHECK(rethrows([] { return merged_by<salf::throwing>(throwing_sum), 0; }));
    CHECK(rethrows([] { return merged_by<salf::returning>(throwing_sum); }));
    CHECK_OK(basis_from<salf::throwing>(&identity_rows));
}

CASE(a_log_that_throws_is_heard) {
    salf::context_options options = logging();
    options.set_log([](std::int32_t, const char *) { throw own_trouble{42}; }, SALF_LOG_INFO);
    CHECK(rethrows([&] { return salf::context::create(options); }));
    options.backend = SALF_BACKEND_REFERENCE;
    CHECK_OK(salf::context::create(options));
}

CASE(every_allocation_may_throw) {
    const identity_head head;
    int failed = 0;
    for (int n = 0;; n++) {
        const auto left = std::make_shared<int>(n);
        bool done = false;
        CHECK(rethrows([&] {
                  const auto context = salf::context::create(failing_memory(left));
                  const auto model = salf::model::create(context, head.options());
                  auto probe = salf::probe::create(salf::basis::create(model, labels));
                  probe.begin(labels);
                  done = true;
                  return 0;
              }) == !done);
        if (done) break;
        failed++;
    }
    CHECK(failed > 5);
}

CASE(a_bad_alloc_is_itself) {
    salf::context_options options;
    options.set_allocator([](std::size_t, std::size_t) -> void * { throw std::bad_alloc(); },
                          [](void *, std::size_t) {});
    bool caught = false;
    try {
        static_cast<void>(salf::context::create(options));
    } catch (const std::bad_alloc &) {
        caught = true;
    }
    CHECK(caught);
}

CASE(calls_nest) {
    /* The callback's own call fails and is dealt with; another error leaves it. */
    int inner = 0;
    CHECK_STATUS(basis_from<salf::throwing>([&inner](std::int64_t, std::int64_t, float *) {
                     try {
                         static_cast<void>(basis_from<salf::throwing>(throwing_rows));
                     } catch (const own_trouble &) {
                         inner++;
                     }
                     salf::planner::create(salf::context::create(), -5, 1);
                 }),
                 SALF_E_ARGUMENT, "-5");
    CHECK(inner == 1);
    CHECK_OK(basis_from<salf::throwing>([](std::int64_t first, std::int64_t count, float *out) {
        CHECK_STATUS(salf::planner::create(salf::context::create(), -5, 1), SALF_E_ARGUMENT, "-5");
        identity_rows(first, count, out);
    }));
}

CASE(exceptions_from_c_calls_are_a_status) {
    const auto model = take(salf::model::create(make_context<salf::errors>(), rows_from(throwing_rows)));
    salf_basis *raw = nullptr;
    CHECK(salf_basis_create(&raw, model.get(), labels.data(), 2, nullptr) == SALF_E_CALLBACK && !raw);
    CHECK_OK(salf::planner::create(make_context<salf::errors>(), 2, 4));
}

CASE(threads_get_their_own_exceptions) {
    const auto context = make_context<salf::throwing>();
    std::atomic<int> right{0};
    const auto work = [&](int number) {
        for (int i = 0; i < 200; i++) try {
                const auto rows = [number](std::int64_t, std::int64_t, float *) { throw own_trouble{number}; };
                const auto model = salf::model::create(context, rows_from(rows));
                static_cast<void>(salf::basis::create(model, labels));
            } catch (const own_trouble &thrown) {
                right += thrown.value == number;
            }
    };
    std::thread first(work, 1), second(work, 2);
    first.join();
    second.join();
    CHECK(right == 400);
}

#endif

int main() {
    return cases::main();
}
