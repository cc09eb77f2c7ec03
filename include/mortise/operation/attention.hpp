// Scaled dot-product attention of several heads, on queries, keys and values that lie side by side as one projection leaves them.
//
//   attention_forward(device, size, qkv, p, context)                        p = softmax(q k^T / sqrt(width)), context = p v
//   attention_backward(device, size, qkv, p, dcontext, dqkv, workspace)     the gradient of qkv
//
// qkv, dqkv           (batch, length, 3, heads, width)   queries, keys, values
// p, workspace        (batch, heads, length, length)     probabilities, kept for backward; row i belongs to query i
// context, dcontext   (batch, length, heads, width)
//
// With `causal` a query sees itself and what is before it; other probabilities are 0. Every output is overwritten; nothing allocates, throws or
// waits. Each (sample, head) is computed on its own: its bits depend on neither batch nor thread count.
// Source: Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, eq. 1 and section 3.2.2.
#pragma once

#include <mortise/operation/attention_size.hpp>
#include <mortise/operation/host/attention.hpp>
