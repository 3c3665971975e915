/*
 * layout.c - sizes and offsets of the public structs on machines with 64-bit pointers. Compiling it is the test.
 *
 * Written by write_layout.py when the ABI is extended or broken (make abi-baseline); a line that changes without a new
 * SALF_SOVERSION breaks programs that are already built. Structs that begin with struct_size may grow at their end.
 */
#include <salf.h>
#include <stddef.h>

#if UINTPTR_MAX == 0xffffffffffffffffu
#define AT(type, field, offset) _Static_assert(offsetof(type, field) == (offset), #type "." #field " moved")
#define SIZE(type, size)        _Static_assert(sizeof(type) == (size), #type " changed its size")
#define GROWS(type, size)       _Static_assert(sizeof(type) >= (size), #type " shrank")

GROWS(salf_basis_info, 112);
AT(salf_basis_info, struct_size, 0);
AT(salf_basis_info, mode, 4);
AT(salf_basis_info, side, 8);
AT(salf_basis_info, method, 12);
AT(salf_basis_info, hidden, 16);
AT(salf_basis_info, vocab, 24);
AT(salf_basis_info, n_labels, 32);
AT(salf_basis_info, rank, 40);
AT(salf_basis_info, rtol, 48);
AT(salf_basis_info, ridge, 56);
AT(salf_basis_info, sigma_max, 64);
AT(salf_basis_info, sigma_min, 72);
AT(salf_basis_info, condition, 80);
AT(salf_basis_info, fingerprint, 88);
AT(salf_basis_info, has_norms, 96);
AT(salf_basis_info, has_table, 100);
AT(salf_basis_info, row_error, 104);

GROWS(salf_basis_options, 32);
AT(salf_basis_options, struct_size, 0);
AT(salf_basis_options, mode, 4);
AT(salf_basis_options, rtol, 8);
AT(salf_basis_options, ridge, 16);
AT(salf_basis_options, side, 24);
AT(salf_basis_options, prepare, 28);

GROWS(salf_blas, 40);
AT(salf_blas, struct_size, 0);
AT(salf_blas, reserved, 4);
AT(salf_blas, user, 8);
AT(salf_blas, name, 16);
AT(salf_blas, product, 24);
AT(salf_blas, potrf, 32);

GROWS(salf_checkpoint_content, 56);
AT(salf_checkpoint_content, struct_size, 0);
AT(salf_checkpoint_content, reserved, 4);
AT(salf_checkpoint_content, tensors, 8);
AT(salf_checkpoint_content, n_tensors, 16);
AT(salf_checkpoint_content, metadata, 24);
AT(salf_checkpoint_content, n_metadata, 32);
AT(salf_checkpoint_content, policy, 40);
AT(salf_checkpoint_content, planner, 48);

GROWS(salf_checkpoint_info, 32);
AT(salf_checkpoint_info, struct_size, 0);
AT(salf_checkpoint_info, locked, 4);
AT(salf_checkpoint_info, saves, 8);
AT(salf_checkpoint_info, tensors, 16);
AT(salf_checkpoint_info, damage, 24);

GROWS(salf_context_info, 48);
AT(salf_context_info, struct_size, 0);
AT(salf_context_info, backend, 4);
AT(salf_context_info, backend_name, 8);
AT(salf_context_info, kernels, 16);
AT(salf_context_info, device, 24);
AT(salf_context_info, threads, 28);
AT(salf_context_info, rank, 32);
AT(salf_context_info, ranks, 36);
AT(salf_context_info, blas, 40);

GROWS(salf_context_options, 144);
AT(salf_context_options, struct_size, 0);
AT(salf_context_options, backend, 4);
AT(salf_context_options, device, 8);
AT(salf_context_options, threads, 12);
AT(salf_context_options, stream, 16);
AT(salf_context_options, workspace_limit, 24);
AT(salf_context_options, alloc, 32);
AT(salf_context_options, free, 40);
AT(salf_context_options, alloc_user, 48);
AT(salf_context_options, log, 56);
AT(salf_context_options, log_user, 64);
AT(salf_context_options, log_level, 72);
AT(salf_context_options, rank, 76);
AT(salf_context_options, ranks, 80);
AT(salf_context_options, progress_interval, 84);
AT(salf_context_options, all_reduce, 88);
AT(salf_context_options, communicator_user, 96);
AT(salf_context_options, plugin_path, 104);
AT(salf_context_options, progress, 112);
AT(salf_context_options, progress_user, 120);
AT(salf_context_options, blas, 128);
AT(salf_context_options, read_files, 136);
AT(salf_context_options, reserved, 140);

GROWS(salf_cost, 80);
AT(salf_cost, struct_size, 0);
AT(salf_cost, reserved, 4);
AT(salf_cost, forward, 8);
AT(salf_cost, activation_gradient, 16);
AT(salf_cost, weight_gradient, 24);
AT(salf_cost, head, 32);
AT(salf_cost, probe, 40);
AT(salf_cost, total, 48);
AT(salf_cost, full_total, 56);
AT(salf_cost, step_saving, 64);
AT(salf_cost, depth_saving, 72);

GROWS(salf_cost_options, 120);
AT(salf_cost_options, struct_size, 0);
AT(salf_cost_options, n_layers, 4);
AT(salf_cost_options, hidden, 8);
AT(salf_cost_options, ffn_hidden, 16);
AT(salf_cost_options, vocab, 24);
AT(salf_cost_options, n_heads, 32);
AT(salf_cost_options, n_kv_heads, 36);
AT(salf_cost_options, head_dim, 40);
AT(salf_cost_options, gated_ffn, 44);
AT(salf_cost_options, lora_rank, 48);
AT(salf_cost_options, matrices, 52);
AT(salf_cost_options, rows, 56);
AT(salf_cost_options, row_tokens, 64);
AT(salf_cost_options, head_positions, 72);
AT(salf_cost_options, probe, 80);
AT(salf_cost_options, metric, 84);
AT(salf_cost_options, train_embedding, 88);
AT(salf_cost_options, train_head, 92);
AT(salf_cost_options, eof, 96);
AT(salf_cost_options, trainable, 104);
AT(salf_cost_options, cut, 112);
AT(salf_cost_options, reserved, 116);

GROWS(salf_decision, 136);
AT(salf_decision, struct_size, 0);
AT(salf_decision, n_layers, 4);
AT(salf_decision, step, 8);
AT(salf_decision, cut, 16);
AT(salf_decision, graph_changed, 20);
AT(salf_decision, train_embedding, 24);
AT(salf_decision, train_head, 28);
AT(salf_decision, trainable, 32);
AT(salf_decision, rate_scale, 40);
AT(salf_decision, added, 48);
AT(salf_decision, removed, 56);
AT(salf_decision, reset, 64);
AT(salf_decision, n_added, 72);
AT(salf_decision, n_removed, 76);
AT(salf_decision, n_reset, 80);
AT(salf_decision, reserved, 84);
AT(salf_decision, rows, 88);
AT(salf_decision, eof, 96);
AT(salf_decision, order, 104);
AT(salf_decision, active_rows, 112);
AT(salf_decision, batch_share, 120);
AT(salf_decision, gradients_wanted, 128);
AT(salf_decision, reserved2, 132);

GROWS(salf_decoder_info, 168);
AT(salf_decoder_info, struct_size, 0);
AT(salf_decoder_info, activation, 4);
AT(salf_decoder_info, gated_ffn, 8);
AT(salf_decoder_info, block, 12);
AT(salf_decoder_info, qk_norm, 16);
AT(salf_decoder_info, norm_kind, 20);
AT(salf_decoder_info, biases, 24);
AT(salf_decoder_info, fused, 28);
AT(salf_decoder_info, rope, 32);
AT(salf_decoder_info, rotary_dims, 36);
AT(salf_decoder_info, rope_theta, 40);
AT(salf_decoder_info, local_rope_theta, 48);
AT(salf_decoder_info, rope_factor, 56);
AT(salf_decoder_info, rope_low_factor, 64);
AT(salf_decoder_info, rope_high_factor, 72);
AT(salf_decoder_info, rope_beta_fast, 80);
AT(salf_decoder_info, rope_beta_slow, 88);
AT(salf_decoder_info, rope_attention_factor, 96);
AT(salf_decoder_info, rope_original_positions, 104);
AT(salf_decoder_info, attention_scale, 112);
AT(salf_decoder_info, attention_softcap, 120);
AT(salf_decoder_info, residual_scale, 128);
AT(salf_decoder_info, sliding_window, 136);
AT(salf_decoder_info, sliding, 144);
AT(salf_decoder_info, unsupported, 152);
AT(salf_decoder_info, prefix, 160);

SIZE(salf_identity, 24);
AT(salf_identity, name, 0);
AT(salf_identity, value, 8);
AT(salf_identity, content, 16);

GROWS(salf_loss_options, 32);
AT(salf_loss_options, struct_size, 0);
AT(salf_loss_options, kind, 4);
AT(salf_loss_options, temperature, 8);
AT(salf_loss_options, candidates, 16);
AT(salf_loss_options, n_candidates, 24);

GROWS(salf_method, 40);
AT(salf_method, struct_size, 0);
AT(salf_method, policy, 4);
AT(salf_method, growth, 8);
AT(salf_method, infill, 12);
AT(salf_method, matching, 16);
AT(salf_method, probes, 20);
AT(salf_method, metric, 24);
AT(salf_method, reserved, 28);
AT(salf_method, assignment, 32);
AT(salf_method, stream_order, 36);

GROWS(salf_model_info, 152);
AT(salf_model_info, struct_size, 0);
AT(salf_model_info, family, 4);
AT(salf_model_info, n_layers, 8);
AT(salf_model_info, tied, 12);
AT(salf_model_info, hidden, 16);
AT(salf_model_info, vocab, 24);
AT(salf_model_info, valid_vocab, 32);
AT(salf_model_info, fingerprint, 40);
AT(salf_model_info, head_dtype, 48);
AT(salf_model_info, norm_kind, 52);
AT(salf_model_info, norm_eps, 56);
AT(salf_model_info, logit_scale, 64);
AT(salf_model_info, logit_softcap, 72);
AT(salf_model_info, rope_theta, 80);
AT(salf_model_info, embedding_scale, 88);
AT(salf_model_info, ffn_hidden, 96);
AT(salf_model_info, max_positions, 104);
AT(salf_model_info, n_heads, 112);
AT(salf_model_info, n_kv_heads, 116);
AT(salf_model_info, head_dim, 120);
AT(salf_model_info, attention_bias, 124);
AT(salf_model_info, bos_token, 128);
AT(salf_model_info, eos_token, 132);
AT(salf_model_info, model_type, 136);
AT(salf_model_info, vocab_from, 144);
AT(salf_model_info, reserved, 148);

GROWS(salf_model_options, 408);
AT(salf_model_options, struct_size, 0);
AT(salf_model_options, n_layers, 4);
AT(salf_model_options, hidden, 8);
AT(salf_model_options, vocab, 16);
AT(salf_model_options, valid_vocab, 24);
AT(salf_model_options, head, 32);
AT(salf_model_options, embedding, 88);
AT(salf_model_options, head_rows, 144);
AT(salf_model_options, embedding_rows, 152);
AT(salf_model_options, head_rows_user, 160);
AT(salf_model_options, embedding_rows_user, 168);
AT(salf_model_options, tied, 176);
AT(salf_model_options, norm_kind, 180);
AT(salf_model_options, norm_eps, 184);
AT(salf_model_options, norm_weight, 192);
AT(salf_model_options, norm_bias, 248);
AT(salf_model_options, logit_bias, 304);
AT(salf_model_options, logit_scale, 360);
AT(salf_model_options, logit_softcap, 368);
AT(salf_model_options, accept, 376);
AT(salf_model_options, head_transposed, 384);
AT(salf_model_options, embedding_transposed, 388);
AT(salf_model_options, shard_first, 392);
AT(salf_model_options, shard_rows, 400);

SIZE(salf_named_tensor, 136);
AT(salf_named_tensor, name, 0);
AT(salf_named_tensor, shape, 8);
AT(salf_named_tensor, n_dims, 72);
AT(salf_named_tensor, reserved, 76);
AT(salf_named_tensor, view, 80);

GROWS(salf_observation, 48);
AT(salf_observation, struct_size, 0);
AT(salf_observation, n_data, 4);
AT(salf_observation, step, 8);
AT(salf_observation, trace, 16);
AT(salf_observation, gradient_l1, 24);
AT(salf_observation, gradient_norm, 32);
AT(salf_observation, parameter_norm, 40);

GROWS(salf_planner_options, 72);
AT(salf_planner_options, struct_size, 0);
AT(salf_planner_options, growth, 4);
AT(salf_planner_options, infill, 8);
AT(salf_planner_options, matching, 12);
AT(salf_planner_options, ratio, 16);
AT(salf_planner_options, weights, 24);
AT(salf_planner_options, seed, 32);
AT(salf_planner_options, probe_limit, 40);
AT(salf_planner_options, assignment, 48);
AT(salf_planner_options, stream_order, 52);
AT(salf_planner_options, one_cut, 56);
AT(salf_planner_options, max_groups, 60);
AT(salf_planner_options, full_batches, 64);
AT(salf_planner_options, reserved, 68);

GROWS(salf_policy_options, 144);
AT(salf_policy_options, struct_size, 0);
AT(salf_policy_options, train_embedding, 4);
AT(salf_policy_options, train_head, 8);
AT(salf_policy_options, reserved, 12);
AT(salf_policy_options, total_steps, 16);
AT(salf_policy_options, seed, 24);
AT(salf_policy_options, interval, 32);
AT(salf_policy_options, order, 40);
AT(salf_policy_options, first_layer, 44);
AT(salf_policy_options, reduction, 48);
AT(salf_policy_options, n_active, 52);
AT(salf_policy_options, always_on, 56);
AT(salf_policy_options, keep_moments, 60);
AT(salf_policy_options, cubic, 64);
AT(salf_policy_options, scale_rate, 68);
AT(salf_policy_options, start, 72);
AT(salf_policy_options, level, 80);
AT(salf_policy_options, percentile, 88);
AT(salf_policy_options, script, 96);
AT(salf_policy_options, n_script, 104);
AT(salf_policy_options, callback, 112);
AT(salf_policy_options, callback_user, 120);
AT(salf_policy_options, planner, 128);
AT(salf_policy_options, rates, 136);
AT(salf_policy_options, reserved2, 140);

GROWS(salf_probe_options, 56);
AT(salf_probe_options, struct_size, 0);
AT(salf_probe_options, n_layers, 4);
AT(salf_probe_options, metric, 8);
AT(salf_probe_options, lens, 12);
AT(salf_probe_options, scores, 16);
AT(salf_probe_options, eof_rule, 20);
AT(salf_probe_options, nonfinite, 24);
AT(salf_probe_options, rows_per_datum, 28);
AT(salf_probe_options, temperature, 32);
AT(salf_probe_options, candidates, 40);
AT(salf_probe_options, n_candidates, 48);

SIZE(salf_product, 104);
AT(salf_product, dtype, 0);
AT(salf_product, a_transposed, 4);
AT(salf_product, b_transposed, 8);
AT(salf_product, upper, 12);
AT(salf_product, m, 16);
AT(salf_product, n, 24);
AT(salf_product, k, 32);
AT(salf_product, a, 40);
AT(salf_product, b, 48);
AT(salf_product, c, 56);
AT(salf_product, a_stride, 64);
AT(salf_product, b_stride, 72);
AT(salf_product, c_stride, 80);
AT(salf_product, alpha, 88);
AT(salf_product, beta, 96);

GROWS(salf_signal_info, 96);
AT(salf_signal_info, struct_size, 0);
AT(salf_signal_info, most_frequent, 4);
AT(salf_signal_info, rows, 8);
AT(salf_signal_info, most_frequent_share, 16);
AT(salf_signal_info, grouped_rows, 24);
AT(salf_signal_info, n_groups, 32);
AT(salf_signal_info, single_groups, 36);
AT(salf_signal_info, group_share, 40);
AT(salf_signal_info, group_chance, 48);
AT(salf_signal_info, group_adjusted, 56);
AT(salf_signal_info, trained, 64);
AT(salf_signal_info, matched_share, 72);
AT(salf_signal_info, revisits, 80);
AT(salf_signal_info, agreement, 88);

GROWS(salf_signal_options, 24);
AT(salf_signal_options, struct_size, 0);
AT(salf_signal_options, n_layers, 4);
AT(salf_signal_options, per_datum, 8);
AT(salf_signal_options, max_groups, 12);
AT(salf_signal_options, max_ids, 16);
AT(salf_signal_options, reserved, 20);

SIZE(salf_stage, 48);
AT(salf_stage, layer, 0);
AT(salf_stage, reserved, 4);
AT(salf_stage, count, 8);
AT(salf_stage, matched, 16);
AT(salf_stage, filled, 24);
AT(salf_stage, probed, 32);
AT(salf_stage, data, 40);

SIZE(salf_task, 32);
AT(salf_task, kind, 0);
AT(salf_task, layer, 4);
AT(salf_task, n_data, 8);
AT(salf_task, data, 16);
AT(salf_task, eof, 24);

SIZE(salf_tensor, 56);
AT(salf_tensor, data, 0);
AT(salf_tensor, row_index, 8);
AT(salf_tensor, rows, 16);
AT(salf_tensor, cols, 24);
AT(salf_tensor, row_stride, 32);
AT(salf_tensor, dtype, 40);
AT(salf_tensor, memory, 44);
AT(salf_tensor, index_memory, 48);
AT(salf_tensor, extent, 52);

SIZE(salf_trace, 40);
AT(salf_trace, rows, 0);
AT(salf_trace, n_layers, 8);
AT(salf_trace, n_nonfinite, 12);
AT(salf_trace, deviations, 16);
AT(salf_trace, gains, 24);
AT(salf_trace, eof, 32);
#endif

int main(void) {
    return 0;
}
