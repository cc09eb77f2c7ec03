// mortise on CUDA devices: include this in .cu files, after or instead of mortise.hpp.
#pragma once

#include <mortise/device/cuda.cuh>
#include <mortise/loss/cuda.cuh>
#include <mortise/model/step_memory.cuh>
#include <mortise/operation/cuda/activation.cuh>
#include <mortise/operation/cuda/attention.cuh>
#include <mortise/operation/cuda/conv2d.cuh>
#include <mortise/operation/cuda/count.cuh>
#include <mortise/operation/cuda/cross_entropy.cuh>
#include <mortise/operation/cuda/dropout.cuh>
#include <mortise/operation/cuda/embedding.cuh>
#include <mortise/operation/cuda/gemm.cuh>
#include <mortise/operation/cuda/map.cuh>
#include <mortise/operation/cuda/mixed_precision.cuh>
#include <mortise/operation/cuda/normalization.cuh>
#include <mortise/operation/cuda/pool2d.cuh>
#include <mortise/operation/cuda/reduce.cuh>
#include <mortise/operation/cuda/repeat.cuh>
#include <mortise/operation/cuda/softmax.cuh>
#include <mortise/operation/cuda/transpose.cuh>
#include <mortise/operation/cuda/update.cuh>
#include <mortise/parallel/cuda.cuh>
#include <mortise/train/train_step.cuh>
