/*
 * salf_checkpoint.hpp - files written whole, hashes, and checkpoints of a run: salf_file_save, salf_hash and
 * salf_checkpoint of salf.h. Included by salf.hpp, whose rules hold here.
 */
#ifndef SALF_CHECKPOINT_HPP
#define SALF_CHECKPOINT_HPP

#include "salf_core.hpp"

namespace salf {
inline namespace SALF_HPP_KIND_ {

template <class Errors> class basic_context; /* salf.hpp */

using checkpoint_info = options<salf_checkpoint_info>;
using checkpoint_content = options<salf_checkpoint_content>;

/* Makes bytes the content of a file, whole or not at all. */
template <class Errors = errors> outcome<Errors, void> save_file(text path, span<const std::byte> bytes) {
    return detail::call<Errors>(salf_file_save, path.get(), bytes.data(), static_cast<std::uint64_t>(bytes.size()));
}

/* Of bytes, and of a file's content, behind what has the hash before. */
inline std::uint64_t hash(span<const std::byte> bytes, std::uint64_t before = 0) noexcept {
    return salf_hash(before, bytes.data(), static_cast<std::uint64_t>(bytes.size()));
}
template <class Errors = errors> outcome<Errors, std::uint64_t> hash_file(text path, std::uint64_t before = 0) {
    return detail::run<Errors, std::uint64_t>([&](std::uint64_t &value) {
        value = before;
        return salf_hash_file(path.get(), &value);
    });
}

/* A run that goes on after a kill. content: fill in tensors, metadata, policy and planner; they are borrowed. */
template <class Errors> class basic_checkpoint : public detail::handle<salf_checkpoint, salf_checkpoint_destroy> {
    using base = detail::handle<salf_checkpoint, salf_checkpoint_destroy>;

  public:
    using base::base;
    static outcome<Errors, basic_checkpoint> open(const basic_context<Errors> &context, text folder,
                                                  span<const salf_identity> made_of = {}) {
        return base::make<Errors, basic_checkpoint>(context.kept(), salf_checkpoint_open, context.get(), folder.get(),
                                                    made_of.data(), detail::count(made_of));
    }
    outcome<Errors, checkpoint_info> get_info() const {
        return detail::fetch<Errors, checkpoint_info>(salf_checkpoint_get_info, get());
    }
    outcome<Errors, void> save(const checkpoint_content &content) {
        return detail::call<Errors>(salf_checkpoint_save, get(), &content);
    }
    outcome<Errors, void> load(const checkpoint_content &content) {
        return detail::call<Errors>(salf_checkpoint_load, get(), &content);
    }
};

} // namespace SALF_HPP_KIND_
} // namespace salf
#endif
