/* The two styles of errors: what they say, and that they come from one API. */
#include <type_traits>

#include "cases.hpp"

namespace {

using context = salf::results::context;
using planner = salf::results::planner;

/* How a host without exceptions hands errors on. */
salf::result<double> saving_of(std::int32_t n_layers, std::int64_t n_data) {
    const auto here = context::create();
    if (!here) return here.error();
    auto plan = planner::create(*here, n_layers, n_data);
    if (!plan) return plan.error();
    return plan->saving();
}

} // namespace

CASE(results_hold_a_value_or_an_error) {
    const salf::result<double> good = saving_of(2, 4);
    CHECK(good && good.has_value() && *good == 0.25 && good.status() == SALF_OK);
    const salf::result<double> bad = saving_of(-3, 4);
    CHECK(!bad && bad.status() == SALF_E_ARGUMENT && std::strcmp(bad.error().name(), "SALF_E_ARGUMENT") == 0);
    CHECK(std::strstr(bad.error().what(), "-3") != nullptr);
    CHECK(saving_of(0, 4).value_or(7) == 7 && saving_of(2, 4).value_or(7) == 0.25);
    const salf::result<void> nothing;
    CHECK(nothing && nothing.status() == SALF_OK);
}

CASE(results_move_what_they_hold) {
    auto made = context::create();
    const salf_context *raw = made->get();
    context here = *std::move(made);
    CHECK(here.get() == raw && !*made);
    auto other = salf::result<context>(std::move(here));
    CHECK(other->get() == raw);
    other = salf::result<context>(salf::error(SALF_E_IO, "gone"));
    CHECK(!other && other.status() == SALF_E_IO);
}

CASE(errors_keep_their_message) {
    const auto first = planner::create({}, 1, 1);
    static_cast<void>(saving_of(-77, 1)); /* fails too, later */
    CHECK(first.status() == SALF_E_NULL && std::strstr(first.error().what(), "context") != nullptr);
    const salf::error copy = first.error();
    salf::error assigned(SALF_E_IO, "other");
    assigned = copy;
    CHECK(assigned.status() == SALF_E_NULL && std::strcmp(assigned.what(), first.error().what()) == 0);
    const std::string long_one(2000, 'x');
    CHECK(std::strlen(salf::error(SALF_E_IO, long_one.c_str()).what()) == 511);
    CHECK(*salf::error(SALF_E_IO, nullptr).what() == '\0');
}

static_assert(std::is_nothrow_copy_constructible_v<salf::error> && std::is_base_of_v<std::exception, salf::error>);
static_assert(std::is_same_v<decltype(saving_of(1, 1)), salf::result<double>>);
static_assert(std::is_same_v<decltype(std::declval<planner>().saving()), salf::result<double>>);

#ifdef __cpp_exceptions

static_assert(std::is_same_v<decltype(std::declval<salf::planner>().saving()), double>);

CASE(exceptions_say_the_same) {
    try {
        salf::planner::create(salf::context::create(), -3, 4);
        CHECK(false); /* not reached */
    } catch (const salf::error &problem) {
        const auto result = saving_of(-3, 4);
        CHECK(problem.status() == result.status());
        CHECK(std::strcmp(problem.what(), result.error().what()) == 0);
    }
    CHECK(salf::planner::create(salf::context::create(), 2, 4).saving() == 0.25);
}

CASE(value_throws_the_error) {
    CHECK(saving_of(2, 4).value() == 0.25);
    auto bad = saving_of(-3, 4);
    const auto &same = bad;
    int thrown = 0;
    for (int way = 0; way < 3; way++) try {
            static_cast<void>(way == 0 ? bad.value() : way == 1 ? same.value() : std::move(bad).value());
        } catch (const salf::error &problem) {
            thrown += problem.status() == SALF_E_ARGUMENT;
        }
    CHECK(thrown == 3);
}

#else

static_assert(std::is_same_v<salf::context, salf::results::context>);

#endif

int main() {
    return cases::main();
}
