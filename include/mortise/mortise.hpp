// Everything that needs no CUDA. No definitions of its own.
#pragma once

#include <mortise/config.hpp>

#include <mortise/tensor/element_type.hpp>
#include <mortise/tensor/philox.hpp>
#include <mortise/tensor/shape.hpp>
#include <mortise/tensor/view.hpp>

#include <mortise/device/device.hpp>
#include <mortise/device/host.hpp>

#include <mortise/module/batch_norm.hpp>
#include <mortise/module/concat.hpp>
#include <mortise/module/conv2d.hpp>
#include <mortise/module/dropout.hpp>
#include <mortise/module/embedding.hpp>
#include <mortise/module/flatten.hpp>
#include <mortise/module/frozen.hpp>
#include <mortise/module/gelu.hpp>
#include <mortise/module/layer_norm.hpp>
#include <mortise/module/leaky_relu.hpp>
#include <mortise/module/linear.hpp>
#include <mortise/module/multihead_attention.hpp>
#include <mortise/module/pool2d.hpp>
#include <mortise/module/position_embedding.hpp>
#include <mortise/module/relu.hpp>
#include <mortise/module/residual.hpp>
#include <mortise/module/sequential.hpp>
#include <mortise/module/sigmoid.hpp>
#include <mortise/module/silu.hpp>
#include <mortise/module/softmax.hpp>
#include <mortise/module/tanh.hpp>
#include <mortise/module/transpose.hpp>

#include <mortise/loss/bce_with_logits_loss.hpp>
#include <mortise/loss/cross_entropy_loss.hpp>
#include <mortise/loss/huber_loss.hpp>
#include <mortise/loss/kl_div_loss.hpp>
#include <mortise/loss/l1_loss.hpp>
#include <mortise/loss/mse_loss.hpp>
#include <mortise/loss/nll_loss.hpp>
#include <mortise/loss/smooth_l1_loss.hpp>

#include <mortise/optimizer/adadelta.hpp>
#include <mortise/optimizer/adagrad.hpp>
#include <mortise/optimizer/adam.hpp>
#include <mortise/optimizer/lion.hpp>
#include <mortise/optimizer/nadam.hpp>
#include <mortise/optimizer/optimizer.hpp>
#include <mortise/optimizer/radam.hpp>
#include <mortise/optimizer/rmsprop.hpp>
#include <mortise/optimizer/sgd.hpp>
#include <mortise/optimizer/transforms.hpp>

#include <mortise/schedule/scheduler.hpp>
#include <mortise/schedule/schedules.hpp>

#include <mortise/archive/reader.hpp>
#include <mortise/archive/save.hpp>

#include <mortise/data/batch_loader.hpp>
#include <mortise/data/idx_dataset.hpp>
#include <mortise/data/in_memory_dataset.hpp>
#include <mortise/data/normalized.hpp>
#include <mortise/data/subset.hpp>

#include <mortise/model/model.hpp>
#include <mortise/model/summary.hpp>

#include <mortise/parallel/data_parallel.hpp>

#include <mortise/train/async_saver.hpp>
#include <mortise/train/checkpoint.hpp>
#include <mortise/train/exponential_moving_average.hpp>
#include <mortise/train/gradient_accumulation.hpp>
#include <mortise/train/metrics.hpp>
#include <mortise/train/progress.hpp>
#include <mortise/train/progress_bar.hpp>
#include <mortise/train/serializer.hpp>
#include <mortise/train/state_dict.hpp>
#include <mortise/train/train_step.hpp>
