// ResNet-18 for images of 32 x 32, as torchvision's with a first convolution of 3 x 3 and without the pool behind it.
// He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385.
#pragma once

#include <mortise/mortise.hpp>

namespace benchmarks {

namespace mt = mortise;

template <std::size_t C, std::size_t Stride>
using convolution = mt::conv2d<C, 3, Stride, 1, 1, 1, false>;
template <std::size_t C>
using block =
    mt::sequential<mt::residual<mt::sequential<convolution<C, 1>, mt::batch_norm2d, mt::relu, convolution<C, 1>, mt::batch_norm2d>>,
                   mt::relu>;
template <std::size_t C>
using wider =
    mt::sequential<mt::residual<mt::sequential<convolution<C, 2>, mt::batch_norm2d, mt::relu, convolution<C, 1>, mt::batch_norm2d>,
                                mt::named<"shortcut", mt::sequential<mt::conv2d<C, 1, 2, 0, 1, 1, false>, mt::batch_norm2d>>>,
                   mt::relu>;
using resnet18 = mt::sequential<convolution<64, 1>, mt::batch_norm2d, mt::relu, block<64>, block<64>, wider<128>, block<128>, wider<256>,
                                block<256>, wider<512>, block<512>, mt::adaptive_avg_pool2d<1>, mt::flatten, mt::linear<10>>;

}  // namespace benchmarks
