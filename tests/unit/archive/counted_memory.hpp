#pragma once

#include <cstddef>

std::size_t live_bytes();
/// The most bytes that were live at once since `start_peak`.
std::size_t peak_bytes();
/// From now on: an allocation that would make more than `most` further bytes live throws std::bad_alloc (0: none does).
void start_peak(std::size_t most = 0);
