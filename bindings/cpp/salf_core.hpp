/*
 * salf_core.hpp - what salf.hpp is made of: errors in two styles, spans and tensor views, and how a call crosses the
 * border to C and callbacks cross it back, structs and results. Include salf.hpp.
 */
#ifndef SALF_CORE_HPP
#define SALF_CORE_HPP

#if __cplusplus < 201703L && !(defined(_MSVC_LANG) && _MSVC_LANG >= 201703L)
#error "salf.hpp needs C++17 or newer (-std=c++17); salf.h serves older ones"
#endif

#include <salf.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <iterator>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>
#if __has_include(<version>)
#include <version>
#endif
#ifdef __cpp_lib_span
#include <span>
#endif

/* Files of one program may differ in exceptions and std::span: each kind has a namespace of its own. */
#if defined(__cpp_exceptions) && defined(__cpp_lib_span)
#define SALF_HPP_KIND_ throwing_std_span
#elif defined(__cpp_exceptions)
#define SALF_HPP_KIND_ throwing_own_span
#elif defined(__cpp_lib_span)
#define SALF_HPP_KIND_ plain_std_span
#else
#define SALF_HPP_KIND_ plain_own_span
#endif

namespace salf {
inline namespace SALF_HPP_KIND_ {

/* ---- 1. Errors -------------------------------------------------------------------------------------------------- */

/* A failed call: its status and message. Holds its text itself, so that it can be made when memory is short. */
class error : public std::exception {
  public:
    error(salf_status status, const char *message) noexcept : status_(status) { copy(message); }
    error(const error &other) noexcept : std::exception(), status_(other.status_) { copy(other.message_); }
    error &operator=(const error &other) noexcept {
        if (this != &other) status_ = other.status_, copy(other.message_);
        return *this;
    }
    ~error() override = default;

    salf_status status() const noexcept { return status_; }
    const char *name() const noexcept { return salf_status_name(status_); } /* "SALF_E_SHAPE" */
    const char *what() const noexcept override { return message_; }         /* one line that names the value */

  private:
    void copy(const char *message) noexcept { std::snprintf(message_, sizeof message_, "%s", message ? message : ""); }

    salf_status status_;
    char message_[512]; /* as long as salf_last_error may be */
};

/* The value of a call, or its error. * and -> need a value, error() needs none; value() throws the error where there
 * are exceptions. */
template <class T> class [[nodiscard]] result {
    using stored = std::conditional_t<std::is_void_v<T>, std::monostate, T>;

  public:
    template <class U = T, class = std::enable_if_t<std::is_void_v<U>>> result() noexcept {}
    result(stored value) noexcept : state_(std::in_place_index<0>, std::move(value)) {}
    result(const salf::error &problem) noexcept : state_(std::in_place_index<1>, problem) {}

    bool has_value() const noexcept { return state_.index() == 0; }
    explicit operator bool() const noexcept { return has_value(); }
    salf_status status() const noexcept { return has_value() ? static_cast<salf_status>(SALF_OK) : error().status(); }
    const salf::error &error() const noexcept { return *std::get_if<1>(&state_); }

    stored &operator*() &noexcept { return *std::get_if<0>(&state_); }
    const stored &operator*() const &noexcept { return *std::get_if<0>(&state_); }
    stored &&operator*() &&noexcept { return std::move(*std::get_if<0>(&state_)); }
    stored *operator->() noexcept { return std::get_if<0>(&state_); }
    const stored *operator->() const noexcept { return std::get_if<0>(&state_); }
    template <class U> stored value_or(U &&other) && {
        return has_value() ? std::move(**this) : static_cast<stored>(std::forward<U>(other));
    }
#ifdef __cpp_exceptions
    stored &value() & {
        return has_value() ? **this : throw error();
    }
    const stored &value() const & {
        return has_value() ? **this : throw error();
    }
    stored &&value() && {
        return has_value() ? std::move(**this) : throw error();
    }
#endif

  private:
    std::variant<stored, salf::error> state_;
};

/* The two styles, a parameter of every class below. */
struct returning {
    template <class T> using outcome = result<T>;
    template <class T> static result<T> fail(const error &problem) noexcept { return problem; }
};
#ifdef __cpp_exceptions
struct throwing {
    template <class T> using outcome = T;
    template <class T> [[noreturn]] static T fail(const error &problem) { throw problem; }
};
using errors = throwing;
#else
using errors = returning;
#endif

template <class Errors, class T> using outcome = typename Errors::template outcome<T>;

/* ---- 2. Spans, tensors ------------------------------------------------------------------------------------------ */

#ifdef __cpp_lib_span
template <class T> using span = std::span<T>;
#else
/* What of std::span is needed here: elements that somebody else owns. */
template <class T> class span {
    template <class C> using data_of = decltype(std::data(std::declval<C &>()));
    template <class C>
    using fits = std::enable_if_t<std::is_convertible_v<std::remove_pointer_t<data_of<C>> (*)[], T (*)[]>>;

  public:
    using element_type = T;
    using value_type = std::remove_cv_t<T>;

    constexpr span() noexcept = default;
    constexpr span(T *data, std::size_t size) noexcept : data_(data), size_(size) {}
    template <class C, class = fits<C>> constexpr span(C &&elements) : span(std::data(elements), std::size(elements)) {}

    constexpr T *data() const noexcept { return data_; }
    constexpr std::size_t size() const noexcept { return size_; }
    constexpr bool empty() const noexcept { return size_ == 0; }
    constexpr T *begin() const noexcept { return data_; }
    constexpr T *end() const noexcept { return data_ + size_; }
    constexpr T &operator[](std::size_t i) const noexcept { return data_[i]; }
    constexpr span subspan(std::size_t first, std::size_t n) const noexcept { return {data_ + first, n}; }

  private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};
#endif

/* 16-bit floating-point numbers as bits; views of std::vector<salf::bf16> and the like know their type. */
enum class bf16 : std::uint16_t {};
enum class f16 : std::uint16_t {};

/* SALF_F32 and so on for an element type. Specialise it for 16-bit types of your own. */
template <class T> struct dtype;
template <> struct dtype<float> : std::integral_constant<std::int32_t, SALF_F32> {};
template <> struct dtype<bf16> : std::integral_constant<std::int32_t, SALF_BF16> {};
template <> struct dtype<f16> : std::integral_constant<std::int32_t, SALF_F16> {};
template <> struct dtype<double> : std::integral_constant<std::int32_t, SALF_F64> {};
template <> struct dtype<std::int8_t> : std::integral_constant<std::int32_t, SALF_I8> {};
template <> struct dtype<std::uint8_t> : std::integral_constant<std::int32_t, SALF_U8> {};
template <> struct dtype<std::int32_t> : std::integral_constant<std::int32_t, SALF_I32> {};
template <> struct dtype<std::int64_t> : std::integral_constant<std::int32_t, SALF_I64> {};

/* A salf_tensor for reading: a matrix [rows][cols] that is borrowed. row_stride in elements, 0 = cols. */
struct tensor_view : salf_tensor {
    tensor_view() noexcept : salf_tensor{} {}
    tensor_view(std::int32_t type, const void *elements, std::int64_t n_rows, std::int64_t n_cols,
                std::int64_t stride = 0) noexcept
        : salf_tensor{} {
        data = const_cast<void *>(elements); /* inputs are never written through */
        dtype = type;
        rows = n_rows;
        cols = n_cols;
        row_stride = stride;
    }
    template <class T>
    tensor_view(const T *elements, std::int64_t n_rows, std::int64_t n_cols, std::int64_t stride = 0) noexcept
        : tensor_view(salf::dtype<T>::value, elements, n_rows, n_cols, stride) {}

    /* The same memory, but row r is row index[r], which a call checks against the rows there are. The indices are
     * borrowed too. */
    tensor_view at_rows(span<const std::int64_t> index) const noexcept {
        tensor_view chosen(*this);
        if (!row_index && rows <= INT32_MAX) chosen.extent = static_cast<std::int32_t>(rows);
        chosen.row_index = index.data();
        chosen.rows = static_cast<std::int64_t>(index.size());
        return chosen;
    }
    /* The same view of device memory. */
    tensor_view on_device(bool index_too = false) const noexcept {
        tensor_view there(*this);
        there.memory = SALF_MEMORY_DEVICE;
        there.index_memory = index_too ? SALF_MEMORY_DEVICE : SALF_MEMORY_HOST;
        if (index_too) there.extent = 0; /* nobody reads an index there to check it */
        return there;
    }
};

/* A salf_tensor that a call may write to. */
struct mutable_view : tensor_view {
    mutable_view() noexcept = default;
    explicit mutable_view(const salf_tensor &tensor) noexcept { static_cast<salf_tensor &>(*this) = tensor; }
    mutable_view(std::int32_t type, void *elements, std::int64_t n_rows, std::int64_t n_cols,
                 std::int64_t stride = 0) noexcept
        : tensor_view(type, elements, n_rows, n_cols, stride) {}
    template <class T, class = std::enable_if_t<!std::is_const_v<T>>>
    mutable_view(T *elements, std::int64_t n_rows, std::int64_t n_cols, std::int64_t stride = 0) noexcept
        : tensor_view(elements, n_rows, n_cols, stride) {}

    mutable_view at_rows(span<const std::int64_t> index) const noexcept {
        return mutable_view(tensor_view::at_rows(index));
    }
    mutable_view on_device(bool index_too = false) const noexcept {
        return mutable_view(tensor_view::on_device(index_too));
    }
};

/* A text that ends with a zero byte: a C string, std::string, or std::filesystem::path (where that is of char). */
class text {
  public:
    text(const char *characters) noexcept : characters_(characters) {}
    template <class S,
              class = std::enable_if_t<std::is_same_v<decltype(std::declval<const S &>().c_str()), const char *>>>
    text(const S &string) noexcept : characters_(string.c_str()) {}
    const char *get() const noexcept { return characters_; }

  private:
    const char *characters_;
};

/* ---- 3. How calls are made -------------------------------------------------------------------------------------- */

namespace detail {

/* Where the callbacks that run during a call leave what they threw or returned; calls nest, per thread. */
class frame {
  public:
    frame() noexcept : outer_(std::exchange(innermost, this)) {}
    ~frame() { innermost = outer_; }
    frame(const frame &) = delete;
    frame &operator=(const frame &) = delete;

    static void keep(const error &problem) noexcept {
        if (innermost && !innermost->returned_) innermost->returned_.emplace(problem);
    }
#ifdef __cpp_exceptions
    /* decisive: also rethrown when the call succeeds, as a log's is; the library may get by without an allocation. */
    static void keep(const std::exception_ptr &thrown, bool decisive = true) noexcept {
        if (!innermost || (innermost->thrown_ && (innermost->decisive_ || !decisive))) return;
        innermost->thrown_ = thrown;
        innermost->decisive_ = decisive;
    }
#endif
    /* Rethrows, or tells whether the call failed. */
    bool failed(salf_status status) const {
#ifdef __cpp_exceptions
        if (thrown_ && (decisive_ || status != SALF_OK)) std::rethrow_exception(thrown_);
#endif
        return status != SALF_OK;
    }
    error problem(salf_status status) const noexcept {
        return returned_ ? *returned_ : error(status, salf_last_error());
    }

  private:
    inline static thread_local frame *innermost = nullptr;
    frame *outer_;
    std::optional<error> returned_;
#ifdef __cpp_exceptions
    std::exception_ptr thrown_;
    bool decisive_ = false;
#endif
};

/* Runs function(), or function(value) for a call that gives a T, and turns its status into the outcome. */
template <class Errors, class T = void, class F> outcome<Errors, T> run(F &&function) {
    frame here;
    if constexpr (std::is_void_v<T>) {
        const salf_status status = function();
        if (here.failed(status)) return Errors::template fail<T>(here.problem(status));
        return outcome<Errors, T>();
    } else {
        T value{};
        const salf_status status = function(value);
        if (here.failed(status)) return Errors::template fail<T>(here.problem(status));
        return outcome<Errors, T>(std::move(value));
    }
}

/* A C function that gives nothing, and one whose last parameter takes what it gives. */
template <class Errors, class... P, class... A>
outcome<Errors, void> call(salf_status (*function)(P...), A... arguments) {
    return run<Errors>([&] { return function(arguments...); });
}
template <class Errors, class T, class... P, class... A>
outcome<Errors, T> fetch(salf_status (*function)(P...), A... arguments) {
    return run<Errors, T>([&](T &value) { return function(arguments..., &value); });
}

/* Fails where a span is not as long as it must be. */
template <class Errors, class T = void>
outcome<Errors, T> misfit(const char *what, std::size_t is, std::int64_t needed) {
    char message[160];
    std::snprintf(message, sizeof message, "%s: %lld elements, not %lld", what, static_cast<long long>(is),
                  static_cast<long long>(needed));
    return Errors::template fail<T>(error(SALF_E_SHAPE, message));
}

template <class T> std::int64_t count(span<T> elements) noexcept {
    return static_cast<std::int64_t>(elements.size());
}

/* n elements that begin at an offset; none where there is no array. */
template <class T> span<const T> part(const T *array, std::int64_t offset, std::int64_t n) noexcept {
    return array ? span<const T>(array + offset, static_cast<std::size_t>(n)) : span<const T>();
}

/* Callables that C handles point to. */
using callables = std::shared_ptr<const void>;

inline callables joined(const callables &a, const callables &b) {
    if (!a || a == b) return b;
    if (!b) return a;
    return std::make_shared<const std::pair<callables, callables>>(a, b);
}

/* Owner of a C handle and of the callables it may call. */
template <class C, void (*Destroy)(C *)> class handle {
  public:
    handle() noexcept = default;
    explicit handle(C *raw) noexcept : raw_(raw) {} /* takes it over */
    handle(handle &&) noexcept = default;
    handle &operator=(handle &&other) noexcept {
        handle taken(std::move(other)); /* what was here goes with it, the C handle before its callables */
        std::swap(kept_, taken.kept_);
        std::swap(raw_, taken.raw_);
        return *this;
    }

    C *get() const noexcept { return raw_.get(); }
    explicit operator bool() const noexcept { return raw_ != nullptr; }
    const callables &kept() const noexcept { return kept_; } /* for handles made from this one */

  protected:
    ~handle() = default;

    /* A Handle over what create(out, arguments...) makes, with the callables it needs. */
    template <class Errors, class Handle, class... P, class... A>
    static outcome<Errors, Handle> make(callables needed, salf_status (*create)(C **, P...), A... arguments) {
        return run<Errors, Handle>([&](handle &made) {
            C *raw = nullptr;
            const salf_status status = create(&raw, arguments...);
            made.take(raw, std::move(needed));
            return status;
        });
    }
    void take(C *raw, callables needed) noexcept {
        raw_.reset(raw);
        kept_ = std::move(needed);
    }

  private:
    struct closer {
        void operator()(C *raw) const noexcept { Destroy(raw); }
    };
    callables kept_; /* destroyed after raw_ */
    std::unique_ptr<C, closer> raw_;
};

template <class R> struct is_result : std::false_type {};
template <class T> struct is_result<result<T>> : std::true_type {};

/* The number a callable's answer is for the library: void is 0, an error is `failure`. */
template <class F, class... A> std::int32_t answer(std::int32_t failure, F &function, A... arguments) {
    using R = std::invoke_result_t<F &, A...>;
    static_assert(std::is_void_v<R> || std::is_same_v<R, std::int32_t> || is_result<R>::value,
                  "a callback returns void, int32_t, or a salf::result");
    if constexpr (std::is_void_v<R>) {
        function(arguments...);
        return 0;
    } else if constexpr (is_result<R>::value) {
        const R given = function(arguments...);
        if (!given) return frame::keep(given.error()), failure;
        if constexpr (std::is_same_v<R, result<void>>)
            return 0;
        else
            return *given;
    } else {
        return function(arguments...);
    }
}

/* The same for what may throw. */
template <class F, class... A> std::int32_t guarded(std::int32_t failure, F &function, A... arguments) noexcept {
#ifdef __cpp_exceptions
    try {
        return answer(failure, function, arguments...);
    } catch (...) {
        frame::keep(std::current_exception());
        return failure;
    }
#else
    return answer(failure, function, arguments...);
#endif
}

} // namespace detail

/* ---- structs and results ---- */

/* A C struct that begins with struct_size: that is set, the rest zero. */
template <class C> struct options : C {
    options() noexcept : C() { salf_options_init(static_cast<C *>(this), static_cast<std::uint32_t>(sizeof(C))); }
    options(const C &given) noexcept : C(given) {}
};

/* What a probe found, with its arrays as spans; borrowed until the probe's next begin. */
struct trace : salf_trace {
    trace() noexcept : salf_trace{} {}
    trace(const salf_trace &found) noexcept : salf_trace(found) {}
    span<const double> deviations_of(std::int64_t row) const noexcept { /* [m+1] */
        return detail::part(deviations, row * (n_layers + 1), n_layers + 1);
    }
    span<const double> gains_of(std::int64_t row) const noexcept { /* [m]; empty for part of the spaces */
        return detail::part(gains, row * n_layers, n_layers);
    }
    span<const std::int32_t> eofs() const noexcept { return detail::part(eof, 0, rows); } /* [rows] */
};

/* What to do at a step, with its arrays as spans; borrowed until the policy's next call. */
struct decision : options<salf_decision> {
    bool trains(std::int32_t layer) const noexcept { return trainable[layer] != 0; }
    span<const double> rates() const noexcept { return detail::part(rate_scale, 0, n_layers); } /* [m] */
    span<const std::int32_t> layers_added() const noexcept { return detail::part(added, 0, n_added); }
    span<const std::int32_t> layers_removed() const noexcept { return detail::part(removed, 0, n_removed); }
    span<const std::int32_t> layers_reset() const noexcept { return detail::part(reset, 0, n_reset); }
    bool has_rows() const noexcept { return order != nullptr; } /* whether the policy saw data */
    span<const std::int32_t> eofs() const noexcept { return detail::part(eof, 0, rows); } /* [rows] */
    /* The rows on which the backward of a layer runs; empty without rows. */
    span<const std::int64_t> rows_of(std::int32_t layer) const noexcept {
        return active_rows ? detail::part(order, 0, active_rows[layer]) : span<const std::int64_t>();
    }
};

/* One layer of a plan, and what to do next, with the ids of their data. */
struct stage : salf_stage {
    stage() noexcept : salf_stage{} {}
    span<const std::uint32_t> ids() const noexcept { return detail::part(data, 0, count); }
};
struct task : salf_task {
    task() noexcept : salf_task{} {}
    span<const std::uint32_t> ids() const noexcept { return detail::part(data, 0, n_data); }
    span<const std::int32_t> eofs() const noexcept {
        return detail::part(eof, 0, n_data);
    } /* of a stream's TRAIN task */
};

/* The rows of cols elements each that a container holds; a mutable_view where its elements may be written. */
template <class Errors = errors, class C, class T = std::remove_pointer_t<decltype(std::data(std::declval<C &>()))>,
          class View = std::conditional_t<std::is_const_v<T>, tensor_view, mutable_view>>
outcome<Errors, View> matrix(C &&elements, std::int64_t cols) {
    const std::size_t size = std::size(elements), width = cols > 0 ? static_cast<std::size_t>(cols) : 1;
    const std::int64_t rows = static_cast<std::int64_t>(size / width);
    if (cols < 1 || size % width != 0) return detail::misfit<Errors, View>("salf::matrix", size, rows * cols);
    return outcome<Errors, View>(View(std::data(elements), rows, cols));
}

} // namespace SALF_HPP_KIND_
} // namespace salf
#endif
