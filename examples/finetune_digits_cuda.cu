// finetune_digits for CUDA devices too: the same source, compiled by nvcc.
#include "finetune_digits.cpp"
