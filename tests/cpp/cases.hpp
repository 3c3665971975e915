/*
 * cases.hpp - what the tests of the C++ binding share: cases that count themselves in the form tests/run.sh reads, and
 * a model small enough to work out by hand.
 *
 * CASE(name) { ... } registers itself; CHECK notes a failure and goes on. Works without exceptions too.
 */
#ifndef SALF_TEST_CASES_HPP
#define SALF_TEST_CASES_HPP

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <optional>
#include <salf.hpp>
#include <string>
#include <vector>

namespace cases {

struct entry {
    const char *name;
    void (*run)();
};
inline std::vector<entry> &all() {
    static std::vector<entry> entries;
    return entries;
}
inline bool add(const char *name, void (*run)()) {
    all().push_back({name, run});
    return true;
}
inline int failures = 0;

inline void check(bool good, const char *file, int line, const char *what, const char *detail = "") {
    if (good) return;
    failures++;
    std::printf("# %s:%d: %s %s\n", file, line, what, detail);
}

inline void run(const entry &test) {
#ifdef __cpp_exceptions
    try {
        test.run();
    } catch (const std::exception &thrown) {
        check(false, test.name, 0, "threw", thrown.what());
    }
#else
    test.run();
#endif
}

inline int main() {
    int failed = 0;
    for (const entry &test : all()) {
        failures = 0;
        run(test);
        std::printf("%s - %s\n", failures ? "not ok" : "ok", test.name);
        failed += failures != 0;
    }
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* The value of a call in either style; without one the test cannot go on. */
template <class T> T take(T value) {
    return value;
}
template <class T> T take(salf::result<T> outcome) {
    if (!outcome) std::printf("# %s\nnot ok - a call failed\n", outcome.error().what()), std::exit(EXIT_FAILURE);
    if constexpr (!std::is_void_v<T>) return *std::move(outcome);
}

/* The error of a call in either style; none if it succeeded. */
template <class F> std::optional<salf::error> error_of(F &&function) {
    using R = std::invoke_result_t<F>;
    if constexpr (salf::detail::is_result<R>::value) {
        const R outcome = function();
        if (!outcome) return outcome.error();
    } else {
#ifdef __cpp_exceptions
        try {
            static_cast<void>(function());
        } catch (const salf::error &problem) {
            return problem;
        }
#else
        static_assert(!sizeof(R), "without exceptions every call returns a result");
#endif
    }
    return std::nullopt;
}

/* The call ended with this status, and its message contains these words. */
inline void check_error(const std::optional<salf::error> &problem, salf_status expected, const char *words,
                        const char *file, int line, const char *call) {
    const salf_status status = problem ? problem->status() : static_cast<salf_status>(SALF_OK);
    const char *message = problem ? problem->what() : "";
    check(status == expected, file, line, call, (std::string(salf_status_name(status)) + ": " + message).c_str());
    check(std::strstr(message, words) != nullptr, file, line, call, message);
}

} // namespace cases

#define CASE(name)                                            \
    static void name();                                       \
    static const bool name##_added = cases::add(#name, name); \
    static void name()
#define CHECK(condition) cases::check(static_cast<bool>(condition), __FILE__, __LINE__, #condition)
#define CHECK_STATUS(call, expected, words)                                                                      \
    cases::check_error(cases::error_of([&]() -> decltype(auto) { return call; }), (expected), (words), __FILE__, \
                       __LINE__, #call)
#define CHECK_OK(call) CHECK_STATUS(call, SALF_OK, "")

/* Six layers of width 8 over 8 tokens; the head is the identity, so that the basis of token l is e_l. */
enum { LAYERS = 6, HIDDEN = 8, VOCAB = 8 };

struct identity_head {
    float values[VOCAB * HIDDEN] = {};
    identity_head() {
        for (int i = 0; i < VOCAB; i++) values[i * HIDDEN + i] = 1;
    }
    salf::model_options options() const {
        salf::model_options described;
        described.n_layers = LAYERS;
        described.hidden = HIDDEN;
        described.vocab = VOCAB;
        described.norm_kind = SALF_NORM_RMS;
        described.head = salf::tensor_view(values, VOCAB, HIDDEN);
        return described;
    }
};

template <class Errors> salf::basic_context<Errors> make_context() {
    salf::context_options options;
    options.backend = SALF_BACKEND_REFERENCE;
    return cases::take(salf::basic_context<Errors>::create(options));
}

#endif
