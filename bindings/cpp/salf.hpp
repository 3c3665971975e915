/*
 * salf.hpp - libsalf for C++17 and later: owning handles, spans, errors and callbacks over salf.h. Header only.
 *
 * What a function computes is said in salf.h, under the same name: salf_probe_begin is salf::probe::begin,
 * salf_model_open is salf::model::open. Constants and structs are those of salf.h. Rules that hold for every class:
 * - Handles own: they move, do not copy, and destroy what they hold. get() is the C handle; an empty or moved-from one
 *   is NULL, and calls on it fail with SALF_E_NULL. Threads as in salf.h.
 * - Errors: what can fail returns its value or throws salf::error. The same classes in salf::results return
 *   salf::result<T> instead. Where the compiler has no exceptions, the names in salf are those of salf::results.
 * - Options are the C structs with struct_size set: make one, set fields, pass it.
 * - Arrays are spans (std::span where there is one); matrices are views of memory you own. Nothing is copied.
 * - Callbacks are any callable, kept for as long as a handle lives that was made with them or from one that was. What a
 *   callback throws, or the error it returns, is caught, reported to the library as a failure, and rethrown (returned)
 *   by the call of this header that ran the callback. Calls made from C see SALF_E_CALLBACK only.
 */
#ifndef SALF_HPP
#define SALF_HPP

#include "salf_checkpoint.hpp"
#include "salf_core.hpp"

namespace salf {
inline namespace SALF_HPP_KIND_ {

/* ---- 1. Options ------------------------------------------------------------------------------------------------- */

/* Options with callbacks: keeps the callables alive, together with those of its copies. */
template <class C> struct callback_options : options<C> {
    using options<C>::options;
    const detail::callables &kept() const noexcept { return kept_; }

  protected:
    template <class F> F *keep(F function) {
        auto whole = std::make_shared<std::pair<F, detail::callables>>(std::move(function), kept_);
        F *kept = &whole->first;
        kept_ = std::move(whole);
        return kept;
    }

  private:
    detail::callables kept_;
};

struct context_options : callback_options<salf_context_options> {
    using callback_options::callback_options;

    /* function(int32_t level, const char *message). Handles used in parallel call it in parallel. */
    template <class F> void set_log(F function, std::int32_t level = SALF_LOG_WARNING) {
        log_user = keep(std::move(function));
        log_level = level;
        log = [](void *user, std::int32_t grade, const char *message) {
            const auto line = [&] { (*static_cast<F *>(user))(grade, message); };
            detail::guarded(0, line);
        };
    }
    /* function(const char *what, int64_t done, int64_t total), as salf_progress_fn; returns void, int32_t (other than
     * 0: the call ends) or result<void>. */
    template <class F> void set_progress(F function, std::int32_t interval = 0) {
        progress_user = keep(std::move(function));
        progress_interval = interval;
        progress = [](void *user, const char *what, std::int64_t done, std::int64_t total) {
            return detail::guarded(1, *static_cast<F *>(user), what, done, total);
        };
    }
    /* allocate(size_t size, size_t align) -> void * and release(void *, size_t size); called from any thread that uses
     * the context. release must not throw. */
    template <class A, class R> void set_allocator(A allocate, R release) {
        using both = std::pair<A, R>;
        alloc_user = keep(both(std::move(allocate), std::move(release)));
        alloc = [](void *user, std::size_t size, std::size_t align) noexcept -> void * {
#ifdef __cpp_exceptions
            try {
                return static_cast<both *>(user)->first(size, align);
            } catch (...) {
                detail::frame::keep(std::current_exception(), false);
                return nullptr;
            }
#else
            return static_cast<both *>(user)->first(size, align);
#endif
        };
        free = [](void *user, void *memory, std::size_t size) noexcept {
            static_cast<both *>(user)->second(memory, size);
        };
    }
    /* all_reduce(void *, int64_t count, int32_t dtype, int32_t operation), as salf_all_reduce_fn; returns void, int32_t
     * (0 = success) or result<void>. */
    template <class R> void set_communicator(std::int32_t this_rank, std::int32_t n_ranks, R reduce) {
        rank = this_rank;
        ranks = n_ranks;
        communicator_user = keep(std::move(reduce));
        all_reduce = [](void *user, void *buffer, std::int64_t n, std::int32_t type, std::int32_t operation) {
            return detail::guarded(1, *static_cast<R *>(user), buffer, n, type, operation);
        };
    }
};

struct model_options : callback_options<salf_model_options> {
    using callback_options::callback_options;

    /* function(int64_t first, int64_t count, float *out), as salf_rows_fn; returns void, int32_t (0 = success) or
     * result<void>. */
    template <class F> void set_head_rows(F function) {
        head_rows_user = keep(std::move(function));
        head_rows = rows_of<F>;
    }
    template <class F> void set_embedding_rows(F function) {
        embedding_rows_user = keep(std::move(function));
        embedding_rows = rows_of<F>;
    }

  private:
    template <class F>
    static std::int32_t rows_of(void *user, std::int64_t first, std::int64_t n, float *out) noexcept {
        return detail::guarded(1, *static_cast<F *>(user), first, n, out);
    }
};

using basis_options = options<salf_basis_options>;
using probe_options = options<salf_probe_options>;
using loss_options = options<salf_loss_options>;
using signal_options = options<salf_signal_options>;
using planner_options = options<salf_planner_options>;
using cost_options = options<salf_cost_options>;
using observation = options<salf_observation>;
using context_info = options<salf_context_info>;
using model_info = options<salf_model_info>;
using decoder_info = options<salf_decoder_info>;
using basis_info = options<salf_basis_info>;
using cost = options<salf_cost>;
using signal_info = options<salf_signal_info>;
using method = options<salf_method>;

/* ---- 2. Handles ------------------------------------------------------------------------------------------------- */

template <class Errors> class basic_context : public detail::handle<salf_context, salf_context_destroy> {
    using base = detail::handle<salf_context, salf_context_destroy>;

  public:
    using base::base;
    static outcome<Errors, basic_context> create(const context_options &given = {}) {
        return base::make<Errors, basic_context>(given.kept(), salf_context_create, &given);
    }
    outcome<Errors, void> agree(salf_status status = SALF_OK) const {
        return detail::call<Errors>(salf_context_agree, get(), status);
    }
    outcome<Errors, context_info> info() const {
        return detail::fetch<Errors, context_info>(salf_context_get_info, get());
    }
};

/* Looks into tensors that Self has: an open file, or those of a model. */
template <class Errors, class Self> class tensor_reader {
  public:
    std::int64_t count() const noexcept { return salf_tensors_count(raw()); }
    outcome<Errors, salf_named_tensor> at(std::int64_t index) const {
        return detail::fetch<Errors, salf_named_tensor>(salf_tensors_at, raw(), index);
    }
    outcome<Errors, salf_named_tensor> find(text name) const {
        return detail::fetch<Errors, salf_named_tensor>(salf_tensors_find, raw(), name.get());
    }
    const char *metadata(text key) const noexcept { return salf_tensors_metadata(raw(), key.get()); } /* or NULL */

  private:
    const salf_tensors *raw() const noexcept { return static_cast<const Self *>(this)->get(); }
};

template <class Errors>
class basic_tensors : public detail::handle<salf_tensors, salf_tensors_destroy>,
                      public tensor_reader<Errors, basic_tensors<Errors>> {
    using base = detail::handle<salf_tensors, salf_tensors_destroy>;

  public:
    using base::base;
    static outcome<Errors, basic_tensors> open(const basic_context<Errors> &context, text path) {
        return base::make<Errors, basic_tensors>(context.kept(), salf_tensors_open, context.get(), path.get());
    }
    /* metadata: key, value, key, value, ... */
    static outcome<Errors, void> save(const basic_context<Errors> &context, text path,
                                      span<const salf_named_tensor> tensors, span<const char *const> metadata = {}) {
        if (metadata.size() % 2 != 0)
            return detail::misfit<Errors>("salf::tensors::save: metadata", metadata.size(),
                                          detail::count(metadata) + 1);
        return detail::call<Errors>(salf_tensors_save, context.get(), path.get(), tensors.data(),
                                    detail::count(tensors), metadata.data(), detail::count(metadata) / 2);
    }
};

/* A tensor to save under a name, of shape [rows][cols]. The name is borrowed. */
inline salf_named_tensor named(text name, const salf_tensor &view) noexcept {
    salf_named_tensor tensor{};
    tensor.name = name.get();
    tensor.view = view;
    return tensor;
}

/* The tensors of a model's checkpoint, borrowed from it; false for a described model. */
template <class Errors> class basic_tensors_view : public tensor_reader<Errors, basic_tensors_view<Errors>> {
  public:
    explicit basic_tensors_view(const salf_tensors *raw) noexcept : raw_(raw) {}
    const salf_tensors *get() const noexcept { return raw_; }
    explicit operator bool() const noexcept { return raw_ != nullptr; }

  private:
    const salf_tensors *raw_;
};

template <class Errors> class basic_model : public detail::handle<salf_model, salf_model_destroy> {
    using base = detail::handle<salf_model, salf_model_destroy>;

  public:
    using base::base;
    static outcome<Errors, basic_model> create(const basic_context<Errors> &context, const model_options &given) {
        return base::make<Errors, basic_model>(detail::joined(context.kept(), given.kept()), salf_model_create,
                                               context.get(), &given);
    }
    static outcome<Errors, basic_model> open(const basic_context<Errors> &context, text path,
                                             const model_options &given = {}) {
        return base::make<Errors, basic_model>(detail::joined(context.kept(), given.kept()), salf_model_open,
                                               context.get(), path.get(), &given);
    }
    outcome<Errors, void> update(const model_options &given) { /* norm_weight, norm_bias, logit_bias */
        return detail::call<Errors>(salf_model_update, get(), &given);
    }
    outcome<Errors, model_info> info() const { return detail::fetch<Errors, model_info>(salf_model_get_info, get()); }
    outcome<Errors, decoder_info> decoder() const { /* its arrays are borrowed from the model */
        return detail::fetch<Errors, decoder_info>(salf_model_get_decoder, get());
    }
    basic_tensors_view<Errors> tensors() const noexcept {
        return basic_tensors_view<Errors>(salf_model_get_tensors(get()));
    }
    outcome<Errors, std::uint64_t> fingerprint() const {
        return detail::fetch<Errors, std::uint64_t>(salf_model_fingerprint, get());
    }
};

template <class Errors> class basic_basis : public detail::handle<salf_basis, salf_basis_destroy> {
    using base = detail::handle<salf_basis, salf_basis_destroy>;
    template <class> friend class basic_basis_builder;

  public:
    using base::base;
    static outcome<Errors, basic_basis> create(const basic_model<Errors> &model, span<const std::int32_t> labels,
                                               const basis_options &given = {}) {
        return base::make<Errors, basic_basis>(model.kept(), salf_basis_create, model.get(), labels.data(),
                                               detail::count(labels), &given);
    }
    /* An empty model: the held rows serve alone. */
    static outcome<Errors, basic_basis> load(const basic_context<Errors> &context, text path,
                                             const basic_model<Errors> &model = {}) {
        return base::make<Errors, basic_basis>(detail::joined(context.kept(), model.kept()), salf_basis_load,
                                               context.get(), path.get(), model.get());
    }
    /* A new basis with the labels and options of this one. */
    outcome<Errors, basic_basis> refresh(const basic_model<Errors> &model) const {
        return base::make<Errors, basic_basis>(detail::joined(this->kept(), model.kept()), salf_basis_refresh, get(),
                                               model.get());
    }
    outcome<Errors, void> save(text path) const { return detail::call<Errors>(salf_basis_save, get(), path.get()); }
    outcome<Errors, void> check(const basic_model<Errors> &model) const {
        return detail::call<Errors>(salf_basis_check, get(), model.get());
    }
    outcome<Errors, basis_info> info() const { return detail::fetch<Errors, basis_info>(salf_basis_get_info, get()); }
    /* Labels held, ascending; an empty span without data when the table is. */
    outcome<Errors, span<const std::int32_t>> labels() const {
        return detail::run<Errors, span<const std::int32_t>>([&](span<const std::int32_t> &out) {
            const std::int32_t *held = nullptr;
            std::int64_t n = 0;
            const salf_status status = salf_basis_get_labels(get(), &held, &n);
            out = detail::part(held, 0, n);
            return status;
        });
    }
    outcome<Errors, void> rows(span<const std::int32_t> labels, const mutable_view &out) const {
        return detail::call<Errors>(salf_basis_rows, get(), labels.data(), detail::count(labels), &out);
    }
};

template <class Errors>
class basic_basis_builder : public detail::handle<salf_basis_builder, salf_basis_builder_destroy> {
    using base = detail::handle<salf_basis_builder, salf_basis_builder_destroy>;

  public:
    using base::base;
    static outcome<Errors, basic_basis_builder> create(const basic_context<Errors> &context, std::int64_t vocab,
                                                       std::int64_t hidden, span<const std::int32_t> labels,
                                                       const basis_options &given = {}) {
        return base::make<Errors, basic_basis_builder>(context.kept(), salf_basis_builder_create, context.get(), vocab,
                                                       hidden, labels.data(), detail::count(labels), &given);
    }
    outcome<Errors, void> add(std::int64_t first, const salf_tensor &rows) {
        return detail::call<Errors>(salf_basis_builder_add, get(), first, &rows);
    }
    outcome<Errors, span<double>> partial() {
        return detail::run<Errors, span<double>>([&](span<double> &out) {
            double *values = nullptr;
            std::int64_t n = 0;
            const salf_status status = salf_basis_builder_partial(get(), &values, &n);
            out = span<double>(values, static_cast<std::size_t>(n));
            return status;
        });
    }
    outcome<Errors, void> merge(const basic_basis_builder &other) {
        return detail::call<Errors>(salf_basis_builder_merge, get(), other.get());
    }
    outcome<Errors, void> all_reduce() { return detail::call<Errors>(salf_basis_builder_all_reduce, get()); }
    outcome<Errors, basic_basis<Errors>> finish(const basic_model<Errors> &model = {}) {
        return detail::run<Errors, basic_basis<Errors>>([&](basic_basis<Errors> &made) {
            salf_basis *raw = nullptr;
            const salf_status status = salf_basis_builder_finish(&raw, get(), model.get());
            made.take(raw, detail::joined(this->kept(), model.kept()));
            return status;
        });
    }
};

template <class Errors> class basic_probe : public detail::handle<salf_probe, salf_probe_destroy> {
    using base = detail::handle<salf_probe, salf_probe_destroy>;

  public:
    using base::base;
    static outcome<Errors, basic_probe> create(const basic_basis<Errors> &basis, const probe_options &given = {}) {
        return base::make<Errors, basic_probe>(basis.kept(), salf_probe_create, basis.get(), &given);
    }
    outcome<Errors, void> begin(span<const std::int32_t> labels) {
        return detail::call<Errors>(salf_probe_begin, get(), labels.data(), detail::count(labels));
    }
    outcome<Errors, void> observe(std::int32_t space, const salf_tensor &states, std::int32_t kind = SALF_STATE_RAW) {
        return detail::call<Errors>(salf_probe_observe, get(), space, &states, kind);
    }
    outcome<Errors, trace> end() { return detail::fetch<Errors, trace>(salf_probe_end, get()); }
    outcome<Errors, trace> partial() { return detail::fetch<Errors, trace>(salf_probe_partial, get()); }
    outcome<Errors, void> replay() { return detail::call<Errors>(salf_probe_replay, get()); }
    outcome<Errors, void> flush() { return detail::call<Errors>(salf_probe_flush, get()); }
    outcome<Errors, bool> poll() {
        return detail::run<Errors, bool>([&](bool &out) {
            std::int32_t ready = 0;
            const salf_status status = salf_probe_poll(get(), &ready);
            out = ready != 0;
            return status;
        });
    }
};

/* What a probe's answers are worth, over a run. Empty spans leave the rows out of the figures that need them. */
template <class Errors> class basic_signal : public detail::handle<salf_signal, salf_signal_destroy> {
    using base = detail::handle<salf_signal, salf_signal_destroy>;

  public:
    using base::base;
    static outcome<Errors, basic_signal> create(const basic_context<Errors> &context,
                                                const signal_options &given = {}) {
        return base::make<Errors, basic_signal>(context.kept(), salf_signal_create, context.get(), &given);
    }
    outcome<Errors, void> add(const salf_trace &found, span<const std::int32_t> groups = {},
                              span<const std::uint32_t> ids = {}, span<const std::int32_t> cuts = {}) {
        for (const std::size_t given : {groups.size(), ids.size(), cuts.size()})
            if (given != 0 && given != static_cast<std::size_t>(found.rows))
                return detail::misfit<Errors>("salf::signal::add: groups, ids or cuts", given, found.rows);
        return detail::call<Errors>(salf_signal_add, get(), &found, groups.empty() ? nullptr : groups.data(),
                                    ids.empty() ? nullptr : ids.data(), cuts.empty() ? nullptr : cuts.data());
    }
    outcome<Errors, signal_info> get_info() const { return detail::fetch<Errors, signal_info>(salf_signal_get, get()); }
};

template <class Errors> class basic_loss : public detail::handle<salf_loss, salf_loss_destroy> {
    using base = detail::handle<salf_loss, salf_loss_destroy>;

  public:
    using base::base;
    static outcome<Errors, basic_loss> create(const basic_basis<Errors> &basis, const loss_options &given = {}) {
        return base::make<Errors, basic_loss>(basis.kept(), salf_loss_create, basis.get(), &given);
    }
    /* losses [rows][1]; gradient [rows][D] times scale, not wanted where its data is NULL. */
    outcome<Errors, void> compute(span<const std::int32_t> labels, const salf_tensor &states,
                                  const mutable_view &losses, const mutable_view &gradient = {}, double scale = 1) {
        if (detail::count(labels) != states.rows)
            return detail::misfit<Errors>("salf::loss::compute: labels", labels.size(), states.rows);
        return detail::call<Errors>(salf_loss_compute, get(), labels.data(), &states, scale, &losses,
                                    gradient.data ? &gradient : nullptr);
    }
    outcome<Errors, void> compute(span<const std::int32_t> labels, const salf_tensor &states, span<float> losses,
                                  const mutable_view &gradient = {}, double scale = 1) {
        return compute(labels, states, mutable_view(losses.data(), detail::count(losses), 1), gradient, scale);
    }
};

/* What planner and policy share: their state as bytes, for a file of the host's. */
template <class Errors, class Self, auto Save, auto Load> class saved_state {
  public:
    outcome<Errors, std::uint64_t> save_size() const {
        return detail::fetch<Errors, std::uint64_t>(Save, raw(), nullptr);
    }
    /* Bytes used; SALF_E_BUFFER when there are too few. */
    outcome<Errors, std::uint64_t> save_to(span<std::byte> buffer) const {
        return detail::run<Errors, std::uint64_t>([&](std::uint64_t &out) {
            std::byte none{}; /* NULL would ask for the size */
            out = buffer.size();
            return Save(raw(), buffer.empty() ? &none : buffer.data(), &out);
        });
    }
    outcome<Errors, std::vector<std::byte>> save() const {
        return detail::run<Errors, std::vector<std::byte>>([&](std::vector<std::byte> &out) {
            std::uint64_t size = 0;
            const salf_status status = Save(raw(), nullptr, &size);
            if (status != SALF_OK) return status;
            out.resize(static_cast<std::size_t>(size));
            return Save(raw(), out.data(), &size);
        });
    }
    outcome<Errors, void> load(span<const std::byte> bytes) {
        return detail::call<Errors>(Load, raw(), bytes.data(), bytes.size());
    }

  private:
    auto *raw() const noexcept { return static_cast<const Self *>(this)->get(); }
};

template <class Errors>
class basic_planner : public detail::handle<salf_planner, salf_planner_destroy>,
                      public saved_state<Errors, basic_planner<Errors>, salf_planner_save, salf_planner_load> {
    using base = detail::handle<salf_planner, salf_planner_destroy>;

  public:
    basic_planner() noexcept = default;
    basic_planner(salf_planner *raw, std::int32_t n_layers) noexcept : base(raw), n_layers_(n_layers) {}
    static outcome<Errors, basic_planner> create(const basic_context<Errors> &context, std::int32_t n_layers,
                                                 std::int64_t n_data, const planner_options &given = {}) {
        return detail::run<Errors, basic_planner>([&](basic_planner &made) {
            salf_planner *raw = nullptr;
            const salf_status status = salf_planner_create(&raw, context.get(), n_layers, n_data, &given);
            made.take(raw, context.kept());
            made.n_layers_ = n_layers;
            return status;
        });
    }
    outcome<Errors, void> counts(span<std::int64_t> out) const { /* [m] */
        if (detail::count(out) != n_layers_)
            return detail::misfit<Errors>("salf::planner::counts: counts", out.size(), n_layers_);
        return detail::call<Errors>(salf_planner_counts, get(), out.data());
    }
    outcome<Errors, double> saving() const { return detail::fetch<Errors, double>(salf_planner_saving, get()); }
    outcome<Errors, void> set_eof(std::int64_t first, span<const std::int32_t> eof) {
        return detail::call<Errors>(salf_planner_set_eof, get(), first, detail::count(eof), eof.data());
    }
    outcome<Errors, void> match() { return detail::call<Errors>(salf_planner_match, get()); }
    outcome<Errors, stage> get_stage(std::int32_t layer) const {
        return detail::fetch<Errors, stage>(salf_planner_get_stage, get(), layer);
    }
    outcome<Errors, task> next(std::int64_t max_data) {
        return detail::fetch<Errors, task>(salf_planner_next, get(), max_data);
    }
    /* accepted: as long as eof. */
    outcome<Errors, void> report(span<const std::int32_t> eof, span<std::uint8_t> accepted) {
        if (accepted.size() != eof.size())
            return detail::misfit<Errors>("salf::planner::report: accepted", accepted.size(), detail::count(eof));
        return detail::call<Errors>(salf_planner_report, get(), eof.data(), detail::count(eof), accepted.data());
    }
    /* Of a stream: sizes of groups before the first task; and the answer to a PROBE task, groups of its rows. */
    outcome<Errors, void> set_groups(span<const std::int32_t> groups, span<const std::int64_t> sizes) {
        if (sizes.size() != groups.size())
            return detail::misfit<Errors>("salf::planner::set_groups: sizes", sizes.size(), detail::count(groups));
        return detail::call<Errors>(salf_planner_set_groups, get(), groups.data(), sizes.data(), detail::count(groups));
    }
    outcome<Errors, task> assign(const salf_trace &found, span<const std::int32_t> groups) {
        if (detail::count(groups) != found.rows)
            return detail::misfit<Errors, task>("salf::planner::assign: groups", groups.size(), found.rows);
        return detail::fetch<Errors, task>(salf_planner_assign, get(), &found, groups.data());
    }
    outcome<Errors, void> done() { return detail::call<Errors>(salf_planner_done, get()); }

  private:
    std::int32_t n_layers_ = 0;
};

struct policy_options : callback_options<salf_policy_options> {
    using callback_options::callback_options;

    /* function(int64_t step, int32_t n_layers, const salf::trace *) -> the cut, as salf_cut_fn; int32_t or
     * result<int32_t>. */
    template <class F> void set_callback(F function) {
        callback_user = keep(std::move(function));
        callback = [](void *user, std::int64_t step, std::int32_t n_layers, const salf_trace *found) {
            const trace seen = found ? trace(*found) : trace();
            return detail::guarded(-1, *static_cast<F *>(user), step, n_layers, found ? &seen : nullptr);
        };
    }
    /* For SALF_POLICY_BUDGET. The planner is the host's until the policy is made, which then keeps it alive. */
    template <class Errors> void set_planner(const basic_planner<Errors> &given) {
        planner = given.get();
        if (given.kept()) keep(given.kept());
    }
};

template <class Errors>
class basic_policy : public detail::handle<salf_policy, salf_policy_destroy>,
                     public saved_state<Errors, basic_policy<Errors>, salf_policy_save, salf_policy_load> {
    using base = detail::handle<salf_policy, salf_policy_destroy>;

  public:
    using base::base;
    static outcome<Errors, basic_policy> create(const basic_context<Errors> &context, std::int32_t kind,
                                                std::int32_t n_layers, const policy_options &given = {}) {
        return base::make<Errors, basic_policy>(detail::joined(context.kept(), given.kept()), salf_policy_create,
                                                context.get(), kind, n_layers, &given);
    }
    outcome<Errors, decision> decide(const observation &seen) {
        return detail::fetch<Errors, decision>(salf_policy_decide, get(), &seen);
    }
    outcome<Errors, decision> decide(std::int64_t step) { return decide_from(step, nullptr); }
    outcome<Errors, decision> decide(std::int64_t step, const salf_trace &found) { return decide_from(step, &found); }

  private:
    outcome<Errors, decision> decide_from(std::int64_t step, const salf_trace *found) {
        observation seen;
        seen.step = step;
        seen.trace = found;
        return decide(seen);
    }
};

/* ---- 3. Functions without a handle ------------------------------------------------------------------------------ */

inline std::int32_t version_number() noexcept {
    return salf_version_number();
}
inline const char *version_string() noexcept {
    return salf_version_string();
}
inline const char *status_text(salf_status status) noexcept {
    return salf_status_text(status);
}

template <class Errors = errors> outcome<Errors, std::int64_t> constant(text name) {
    return detail::fetch<Errors, std::int64_t>(salf_constant, name.get());
}
/* NULL behind the last value of a family, and for a family that there is not. */
inline const char *constant_word(text family, std::int64_t value) noexcept {
    return salf_constant_word(family.get(), value);
}

/* What the paper, or a policy's word, names: which policy to make, with which plan and probe. */
template <class Errors = errors> outcome<Errors, method> method_find(text name) {
    return detail::fetch<Errors, method>(salf_method_find, name.get());
}
inline const char *method_name(std::int32_t index) noexcept { /* NULL behind the last */
    return salf_method_name(index);
}

/* deviations [rows][m+1] -> eof [rows], and gains [rows][m] unless that is empty. */
template <class Errors = errors>
outcome<Errors, void> eof_from_deviations(std::int32_t n_layers, span<const double> deviations, span<std::int32_t> eof,
                                          span<double> gains = {}, std::int32_t eof_rule = SALF_EOF_MOST_GAIN,
                                          std::int32_t nonfinite = SALF_NONFINITE_ERROR) {
    const std::int64_t rows = detail::count(eof), m = n_layers;
    if (m >= 0 && detail::count(deviations) != rows * (m + 1))
        return detail::misfit<Errors>("salf::eof_from_deviations: deviations", deviations.size(), rows * (m + 1));
    if (!gains.empty() && detail::count(gains) != rows * m)
        return detail::misfit<Errors>("salf::eof_from_deviations: gains", gains.size(), rows * m);
    return detail::call<Errors>(salf_eof_from_deviations, n_layers, rows, deviations.data(), eof_rule, nonfinite,
                                gains.empty() ? nullptr : gains.data(), eof.data());
}

template <class Errors = errors> outcome<Errors, cost> cost_estimate(const cost_options &given) {
    return detail::fetch<Errors, cost>(salf_cost_estimate, &given);
}

/* ---- 4. Names of the two styles --------------------------------------------------------------------------------- */

#define SALF_HPP_NAMES_(style)                        \
    using context = basic_context<style>;             \
    using tensors = basic_tensors<style>;             \
    using tensors_view = basic_tensors_view<style>;   \
    using model = basic_model<style>;                 \
    using basis = basic_basis<style>;                 \
    using basis_builder = basic_basis_builder<style>; \
    using probe = basic_probe<style>;                 \
    using loss = basic_loss<style>;                   \
    using signal = basic_signal<style>;               \
    using planner = basic_planner<style>;             \
    using policy = basic_policy<style>;               \
    using checkpoint = basic_checkpoint<style>;

SALF_HPP_NAMES_(errors)

/* Every failure is a salf::result. */
namespace results {
SALF_HPP_NAMES_(returning)
}
#undef SALF_HPP_NAMES_

} // namespace SALF_HPP_KIND_
} // namespace salf
#endif
