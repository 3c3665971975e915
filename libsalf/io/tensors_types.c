/* tensors_types.c - the element types of safetensors files: those that are usable here, and others whose size is known.
 */
#include "tensors_types.h"

#include <string.h>

static const slf_file_type file_types[] = {
    {"F32", SALF_F32, 4}, {"BF16", SALF_BF16, 2}, {"F16", SALF_F16, 2}, {"F64", SALF_F64, 8}, {"I8", SALF_I8, 1},
    {"U8", SALF_U8, 1},   {"I32", SALF_I32, 4},   {"I64", SALF_I64, 8}, {"BOOL", 0, 1},       {"F8_E4M3", 0, 1},
    {"F8_E5M2", 0, 1},    {"F8_E8M0", 0, 1},      {"I16", 0, 2},        {"U16", 0, 2},        {"U32", 0, 4},
    {"U64", 0, 8},        {"C64", 0, 8},
};

const slf_file_type *slf_file_type_by_name(const char *name) {
    for (size_t i = 0; i < sizeof file_types / sizeof *file_types; i++)
        if (strcmp(file_types[i].name, name) == 0) return &file_types[i];
    return NULL;
}

const slf_file_type *slf_file_type_by_dtype(int32_t dtype) {
    for (size_t i = 0; i < sizeof file_types / sizeof *file_types; i++)
        if (file_types[i].dtype == dtype && dtype != 0) return &file_types[i];
    return NULL;
}
