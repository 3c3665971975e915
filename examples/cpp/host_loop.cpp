/*
 * host_loop.cpp - the lines that a training loop in C++ gains.
 *
 * The model is a toy: layer k of 6 turns one of the 4 rows towards its label, and a backward only counts the rows it
 * runs on. The loop is real: the states are probed as the forward makes them, and the decision says, before the
 * backward starts, how far down it must go and on which rows. An error anywhere ends in the one handler of main.
 *
 *   c++ -std=c++17 host_loop.cpp $(pkg-config --cflags --libs salf) -o host_loop
 */
#include <array>
#include <cstdio>
#include <salf.hpp>
#include <vector>

namespace {

constexpr int layers = 6, hidden = 8, vocab = 8, rows = 4, steps = 3;
const std::array<std::int32_t, rows> labels{1, 2, 3, 4};

class trainer {
  public:
    void forward_embedding() {
        for (std::size_t i = 0; i < state_.size(); i++) state_[i] = i % hidden == 0 ? 1.0f : 0.0f;
    }
    void forward_layer(int k, int step) {
        const auto row = static_cast<std::size_t>((k + step) % layers);
        if (row < rows) state_[row * hidden + static_cast<std::size_t>(labels[row])] += 2; /* layers 4, 5: nothing */
    }
    void backward_layer(int k, salf::span<const std::int64_t> on) {
        std::printf("  backward of layer %d on rows", k);
        for (const std::int64_t row : on) std::printf(" %d", static_cast<int>(row));
        std::printf("\n");
        backward_rows += on.size();
    }
    salf::tensor_view states() const { return {state_.data(), rows, hidden}; }

    std::size_t backward_rows = 0;

  private:
    std::vector<float> state_ = std::vector<float>(rows * hidden);
};

void train(trainer &model, salf::probe &probe, salf::policy &policy) {
    for (int step = 0; step < steps; step++) {
        probe.begin(labels);
        model.forward_embedding();
        probe.observe(0, model.states());
        for (int k = 0; k < layers; k++) {
            model.forward_layer(k, step);
            probe.observe(k + 1, model.states());
        }
        const salf::decision decision = policy.decide(step, probe.end());
        std::printf("step %d: cut %d\n", step, static_cast<int>(decision.cut));
        for (int k = layers - 1; k >= decision.cut; k--) model.backward_layer(k, decision.rows_of(k));
    }
}

void run() {
    std::vector<float> head(vocab * hidden);
    for (std::size_t i = 0; i < vocab; i++) head[i * hidden + i] = 1;
    salf::model_options description;
    description.n_layers = layers;
    description.hidden = hidden;
    description.vocab = vocab;
    description.norm_kind = SALF_NORM_RMS;
    description.head = salf::matrix(head, hidden);
    salf::policy_options options;
    options.reduction = SALF_REDUCE_PREFIX;

    const auto context = salf::context::create();
    const auto basis = salf::basis::create(salf::model::create(context, description), labels);
    auto probe = salf::probe::create(basis);
    auto policy = salf::policy::create(context, SALF_POLICY_SALF, layers, options);
    trainer model;
    train(model, probe, policy);
    std::printf("%zu layer backwards instead of %d\n", model.backward_rows, steps * layers * rows);
}

} // namespace

int main() {
    try {
        run();
    } catch (const salf::error &problem) {
        std::fprintf(stderr, "%s: %s\n", problem.name(), problem.what());
        return 1;
    }
    return 0;
}
