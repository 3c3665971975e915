/* Views: element types, shapes, chosen rows, and the spans that calls take. */
#include <array>

#include "cases.hpp"

using cases::take;

/* A host's own 16-bit type. */
struct host_half {
    std::uint16_t bits;
};
template <> struct salf::dtype<host_half> : std::integral_constant<std::int32_t, SALF_F16> {};

namespace {

std::uint16_t to_bf16(float value) { /* exact for the small integers used here */
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return static_cast<std::uint16_t>(bits >> 16);
}

std::size_t length(salf::span<const std::int32_t> labels) {
    return labels.size();
}

/* eof of one row whose states come as views of any type. */
template <class View> std::int32_t eof_of(const std::vector<View> &spaces) {
    const identity_head head;
    const auto model = take(salf::model::create(make_context<salf::errors>(), head.options()));
    const std::array<std::int32_t, 1> label{1};
    auto probe = take(salf::probe::create(take(salf::basis::create(model, label))));
    CHECK_OK(probe.begin(label));
    for (std::size_t k = 0; k < spaces.size(); k++) CHECK_OK(probe.observe(static_cast<std::int32_t>(k), spaces[k]));
    return take(probe.end()).eof[0];
}

template <class T> std::int32_t type_of(T *elements) {
    return salf::tensor_view(elements, 1, 1).dtype;
}

} // namespace

CASE(element_types_are_known) {
    float f = 0;
    double d = 0;
    const std::int8_t i8 = 0;
    std::uint8_t u8 = 0;
    std::int32_t i32 = 0;
    const std::int64_t i64 = 0;
    salf::bf16 b{};
    const salf::f16 h{};
    host_half own{};
    CHECK(type_of(&f) == SALF_F32 && type_of(&d) == SALF_F64 && type_of(&i8) == SALF_I8 && type_of(&u8) == SALF_U8);
    CHECK(type_of(&i32) == SALF_I32 && type_of(&i64) == SALF_I64 && type_of(&b) == SALF_BF16);
    CHECK(type_of(&h) == SALF_F16 && type_of(&own) == SALF_F16);
    CHECK(salf::tensor_view(SALF_BF16, &u8, 1, 1).dtype == SALF_BF16);
}

CASE(views_describe_memory) {
    float values[12] = {};
    const salf::tensor_view view(values, 3, 4);
    CHECK(view.data == values && view.rows == 3 && view.cols == 4 && view.row_stride == 0 && !view.row_index);
    CHECK(view.memory == SALF_MEMORY_HOST && view.extent == 0);
    CHECK(salf::tensor_view(values, 3, 2, 4).row_stride == 4);
    const std::array<std::int64_t, 2> index{2, 0};
    const salf::tensor_view chosen = view.at_rows(index);
    CHECK(chosen.row_index == index.data() && chosen.rows == 2 && chosen.cols == 4);
    CHECK(chosen.on_device().memory == SALF_MEMORY_DEVICE && chosen.on_device().index_memory == SALF_MEMORY_HOST);
    const salf::mutable_view written = salf::mutable_view(values, 3, 4).at_rows(index).on_device(true);
    CHECK(written.rows == 2 && written.index_memory == SALF_MEMORY_DEVICE);
    static_assert(!std::is_constructible_v<salf::mutable_view, const float *, int, int>);
    static_assert(!std::is_convertible_v<salf::tensor_view, salf::mutable_view>);
}

CASE(containers_are_matrices) {
    std::vector<float> values(12);
    const std::array<salf::bf16, 6> constant{};
    CHECK(take(salf::matrix(values, 4)).rows == 3 && take(salf::matrix(values, 4)).data == values.data());
    CHECK(take(salf::matrix(constant, 6)).rows == 1 && take(salf::matrix(constant, 6)).dtype == SALF_BF16);
    static_assert(std::is_same_v<decltype(take(salf::matrix(values, 4))), salf::mutable_view>);
    static_assert(std::is_same_v<decltype(take(salf::matrix(constant, 4))), salf::tensor_view>);
    CHECK_STATUS(salf::matrix(values, 5), SALF_E_SHAPE, "12 elements, not 10");
    CHECK_STATUS(salf::matrix(values, 0), SALF_E_SHAPE, "12");
    CHECK(take(salf::matrix(std::vector<float>(), 4)).rows == 0);
}

CASE(sixteen_bits_are_read_as_they_stand) {
    std::vector<std::uint16_t> first(HIDDEN), later(HIDDEN);
    first[0] = later[1] = to_bf16(2);
    const salf::tensor_view start(SALF_BF16, first.data(), 1, HIDDEN), turned(SALF_BF16, later.data(), 1, HIDDEN);
    CHECK(eof_of<salf::tensor_view>({start, start, start, turned, turned, turned, turned}) == 2);
}

CASE(chosen_rows_are_observed) {
    float states[3][HIDDEN] = {{1}, {0, 1}, {1}};
    const std::array<std::int64_t, 1> start{2}, turned{1};
    const salf::mutable_view all(&states[0][0], 3, HIDDEN);
    std::vector<salf::mutable_view> spaces(LAYERS + 1, all.at_rows(turned));
    spaces[0] = all.at_rows(start);
    CHECK(eof_of(spaces) == 0);
}

CASE(arrays_and_containers_are_spans) {
    const std::int32_t array[] = {1, 2, 3};
    std::vector<std::int32_t> vector(4);
    const std::array<std::int32_t, 2> fixed{};
    CHECK(length(array) == 3 && length(vector) == 4 && length(fixed) == 2 && length({}) == 0);
    CHECK(length({vector.data(), 1}) == 1);
    const salf::span<std::int32_t> writable(vector);
    writable[2] = 5;
    CHECK(length(writable) == 4 && *(writable.end() - 2) == 5 && writable.subspan(2, 1)[0] == 5 && !writable.empty());
    static_assert(!std::is_convertible_v<salf::span<const std::int32_t>, salf::span<std::int32_t>>);
    static_assert(!std::is_convertible_v<std::vector<float>, salf::span<const std::int32_t>>);
}

int main() {
    return cases::main();
}
