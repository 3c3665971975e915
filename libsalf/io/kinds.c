/*
 * kinds.c - what people have instead of a safetensors file or a checkpoint folder, so that an error can say it: the
 * first bytes of a file, and the names in a folder.
 */
#include <dirent.h>
#include <string.h>

#include "io.h"

/* By their first bytes. HTML is what a download gives where it needs a login. */
const char *slf_file_kind(const void *bytes, uint64_t size) {
    static const struct {
        const char *magic, *text;
        size_t length;
    } kinds[] = {
        {"PK\003\004", "a zip archive, as PyTorch (.bin, .pth) and NumPy (.npz) write; save it as safetensors", 4},
        {"\x80\002", "a pickle of PyTorch or Python; save it as safetensors", 2},
        {"\x80\003", "a pickle of Python; save it as safetensors", 2},
        {"\x80\004", "a pickle of Python; save it as safetensors", 2},
        {"\x80\005", "a pickle of Python; save it as safetensors", 2},
        {"version https://git-lfs", "a pointer of Git LFS, not the file itself; 'git lfs pull' fetches that", 23},
        {"\x93NUMPY", "a NumPy array (.npy); save it as safetensors", 6},
        {"\x89HDF", "an HDF5 file, as Keras writes; save it as safetensors", 4},
        {"GGUF", "a GGUF file; give its own path, not a folder or another name", 4},
        {"<!DOCTYPE", "an HTML page, no model; a download may have needed a login", 9},
        {"<!doctype", "an HTML page, no model; a download may have needed a login", 9},
        {"<html", "an HTML page, no model; a download may have needed a login", 5},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (size >= kinds[i].length && memcmp(bytes, kinds[i].magic, kinds[i].length) == 0) return kinds[i].text;
    return NULL;
}

/* Up to a few names of weights in other formats or under other names: the first ones in order, which a folder is not
 * listed in. What cannot be listed is not there. */
void slf_folder_weights(const char *folder, char *text, size_t size) {
    static const char *const ends[] = {".safetensors", ".bin",  ".pth", ".pt",   ".gguf",
                                       ".h5",          ".ckpt", ".npz", ".onnx", ".msgpack"};
    enum { SHOWN = 4, WIDEST = 64 };
    char names[SHOWN + 1][WIDEST];
    size_t n = 0;
    *text = 0;
    DIR *directory = opendir(folder);
    if (!directory) return;
    for (const struct dirent *entry = readdir(directory); entry; entry = readdir(directory)) {
        const size_t length = strlen(entry->d_name);
        bool weights = false;
        for (size_t i = 0; i < sizeof ends / sizeof *ends && length < WIDEST; i++) {
            const size_t end = strlen(ends[i]);
            weights = weights || (length > end && strcmp(entry->d_name + length - end, ends[i]) == 0);
        }
        if (!weights) continue;
        size_t place = n; /* one more than is shown, so that it is known whether there are more */
        while (place > 0 && strcmp(names[place - 1], entry->d_name) > 0) place--;
        if (place > SHOWN) continue;
        n = SLF_MIN(n + 1, SHOWN + 1);
        memmove(names[place + 1], names[place], (n - place - 1) * sizeof *names);
        memcpy(names[place], entry->d_name, length + 1);
    }
    closedir(directory);
    for (size_t i = 0; i < n; i++) slf_list_word(text, size, ", ", i < SHOWN ? names[i] : "...");
}
