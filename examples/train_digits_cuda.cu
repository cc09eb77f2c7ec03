// train_digits for CUDA devices too: the same source, compiled by nvcc.
#include "train_digits.cpp"
