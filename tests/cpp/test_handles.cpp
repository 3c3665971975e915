/* Handles own what they hold: moves, destruction in any order, empty handles, C handles taken over. */
#include <map>
#include <type_traits>

#include "cases.hpp"

using cases::take;

namespace {

/* Memory whose blocks are counted; shared by the copies of the callables that use it. */
struct memory {
    std::map<void *, std::size_t> alive;
    int calls = 0;
};

salf::context_options counting(memory &blocks) {
    salf::context_options options;
    options.backend = SALF_BACKEND_REFERENCE;
    options.set_allocator(
        [&blocks](std::size_t size, std::size_t align) {
            void *block = std::aligned_alloc(align, (size + align - 1) / align * align);
            blocks.alive[block] = size;
            blocks.calls++;
            return block;
        },
        [&blocks](void *block, std::size_t size) noexcept {
            CHECK(blocks.alive[block] == size);
            blocks.alive.erase(block);
            std::free(block);
        });
    return options;
}

template <class Handle> constexpr bool owns() {
    return !std::is_copy_constructible_v<Handle> && !std::is_copy_assignable_v<Handle> &&
           std::is_nothrow_move_constructible_v<Handle> && std::is_nothrow_move_assignable_v<Handle> &&
           std::is_nothrow_default_constructible_v<Handle> && std::is_nothrow_destructible_v<Handle>;
}
static_assert(owns<salf::context>() && owns<salf::tensors>() && owns<salf::model>() && owns<salf::basis>());
static_assert(owns<salf::basis_builder>() && owns<salf::probe>() && owns<salf::loss>() && owns<salf::planner>());
static_assert(owns<salf::policy>());

} // namespace

CASE(everything_is_freed) {
    memory blocks;
    {
        const identity_head head;
        const std::vector<std::int32_t> labels{1, 2};
        const auto context = take(salf::context::create(counting(blocks)));
        const auto model = take(salf::model::create(context, head.options()));
        const auto basis = take(salf::basis::create(model, labels));
        const auto probe = take(salf::probe::create(basis));
        const auto policy = take(salf::policy::create(context, SALF_POLICY_HALF, LAYERS));
        CHECK(!blocks.alive.empty());
    }
    CHECK(blocks.calls > 5 && blocks.alive.empty());
}

CASE(parents_may_go_first) {
    memory blocks;
    {
        salf::probe probe;
        {
            const identity_head head;
            salf::basis basis;
            {
                const auto context = take(salf::context::create(counting(blocks)));
                const auto model = take(salf::model::create(context, head.options()));
                basis = take(salf::basis::create(model, std::vector<std::int32_t>{1}));
            }
            probe = take(salf::probe::create(basis));
        }
        CHECK_OK(probe.begin(std::vector<std::int32_t>{1, 1, 1})); /* allocates through callables of the context */
        CHECK(!blocks.alive.empty());
    }
    CHECK(blocks.alive.empty());
}

CASE(moves_leave_nothing_behind) {
    memory blocks;
    {
        auto first = take(salf::context::create(counting(blocks)));
        const salf_context *raw = first.get();
        salf::context second(std::move(first));
        CHECK(second.get() == raw && second && !first && first.get() == nullptr);
        salf::context &same = second;
        second = std::move(same);
        CHECK(second.get() == raw);
        salf::context third = take(salf::context::create(counting(blocks)));
        const std::size_t two = blocks.alive.size();
        third = std::move(second); /* the old context is destroyed with its own callables still there */
        CHECK(third.get() == raw && !second && blocks.alive.size() < two);
        third = salf::context();
        CHECK(!third && blocks.alive.empty());
    }
    CHECK(blocks.alive.empty());
}

CASE(a_failed_create_leaves_nothing) {
    memory blocks;
    {
        const auto context = take(salf::context::create(counting(blocks)));
        const std::size_t before = blocks.alive.size();
        salf::model_options nothing;
        CHECK_STATUS(salf::model::create(context, nothing), SALF_E_ARGUMENT, "n_layers");
        CHECK(blocks.alive.size() == before);
    }
    CHECK(blocks.alive.empty());
}

CASE(empty_handles_are_refused) {
    const salf::context no_context;
    const salf::model no_model;
    const salf::basis no_basis;
    salf::probe no_probe;
    salf::policy no_policy;
    salf::planner no_planner;
    CHECK_STATUS(no_context.info(), SALF_E_NULL, "context");
    CHECK_STATUS(salf::model::create(no_context, {}), SALF_E_NULL, "context");
    CHECK_STATUS(salf::basis::create(no_model, {}), SALF_E_NULL, "model");
    CHECK_STATUS(salf::probe::create(no_basis), SALF_E_NULL, "basis");
    CHECK_STATUS(no_basis.labels(), SALF_E_NULL, "basis");
    CHECK_STATUS(no_probe.end(), SALF_E_NULL, "probe");
    CHECK_STATUS(no_policy.decide(0), SALF_E_NULL, "policy");
    CHECK_STATUS(no_policy.save(), SALF_E_NULL, "policy");
    CHECK_STATUS(no_planner.next(1), SALF_E_NULL, "planner");
    CHECK(salf::tensors().count() == 0 && !no_model.tensors());
}

CASE(c_handles_are_taken_over) {
    memory blocks;
    const salf::context_options options = counting(blocks);
    salf_context *raw = nullptr;
    CHECK(salf_context_create(&raw, &options) == SALF_OK);
    {
        const salf::context context(raw);
        CHECK(take(context.info()).backend == SALF_BACKEND_REFERENCE);
        salf_planner *plan = nullptr;
        CHECK(salf_planner_create(&plan, context.get(), 3, 9, nullptr) == SALF_OK);
        const salf::planner planner(plan, 3);
        std::vector<std::int64_t> counts(3);
        CHECK_OK(planner.counts(counts));
        CHECK(counts[0] == 3 && counts[2] == 3);
    }
    CHECK(blocks.alive.empty());
}

CASE(options_begin_with_their_size) {
    const salf::policy_options options;
    CHECK(options.struct_size == sizeof(salf_policy_options) && options.interval == 0 && !options.planner);
    salf::basis_options longer;
    longer.struct_size = 1u << 20;
    const identity_head head;
    const auto model = take(salf::model::create(make_context<salf::errors>(), head.options()));
    CHECK_STATUS(salf::basis::create(model, {}, longer), SALF_E_STRUCT, "struct_size");
    salf_basis_options plain = salf::basis_options();
    plain.prepare = SALF_PREPARE_TABLE;
    CHECK(take(take(salf::basis::create(model, {}, plain)).info()).has_table == 1);
}

int main() {
    return cases::main();
}
