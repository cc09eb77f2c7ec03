// A line that shows how an epoch goes: a bar on a terminal, one plain line an epoch elsewhere.
#pragma once

#include <cstddef>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>

#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include <mortise/config.hpp>

namespace mortise {

/// Shows steps of one epoch on `out`: rate, loss, accuracy and the time that is left. On a terminal the line is redrawn at most ten times a
/// second; on a file or a pipe only `finish` prints, so that logs stay readable. Reading the clock is all that an update costs otherwise.
class progress_bar {
 public:
  /// `label`: "epoch 3/20"; `total`: steps of the epoch; `first`: steps that were done before (a resumed epoch).
  progress_bar(std::string label, std::size_t total, std::size_t first = 0, std::FILE* out = stdout, bool quiet = false)
      : label_{std::move(label)}, total_{total}, first_{first}, done_{first}, out_{out}, quiet_{quiet},
        terminal_{!quiet && ::isatty(::fileno(out)) == 1}, start_{seconds_now()}, drawn_{start_} {}

  /// One more step; `samples` of it count for the rate.
  void update(std::size_t samples, double loss, double accuracy) {
    ++done_;
    samples_ += samples;
    loss_ = loss;
    accuracy_ = accuracy;
    if (!terminal_) return;
    double const now = seconds_now();
    if (now - drawn_ >= 0.1) {
      drawn_ = now;
      draw(now, false);
    }
  }

  /// Ends the line; `note` is appended to it.
  void finish(std::string_view note = {}) {
    if (quiet_) return;
    draw(seconds_now(), true);
    if (!note.empty()) std::fprintf(out_, "  %.*s", static_cast<int>(note.size()), note.data());
    std::fputc('\n', out_);
    std::fflush(out_);
  }

 private:
  /// By a clock that is never set back. POSIX's, since <chrono> would have every program parse the streams and calendars that it comes with.
  static double seconds_now() {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
  }

  std::size_t terminal_columns() const {
    winsize size{};
    return ::ioctl(::fileno(out_), TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col : 80;
  }

  MORTISE_COLD void draw(double now, bool last) {
    double const seconds = now - start_;
    double const rate = seconds > 0 ? static_cast<double>(samples_) / seconds : 0;
    std::size_t const steps = done_ - first_;
    double const left = steps != 0 ? seconds / static_cast<double>(steps) * static_cast<double>(total_ > done_ ? total_ - done_ : 0) : 0;
    if (terminal_) {
      char text[160];
      std::snprintf(text, sizeof text, " %zu/%zu  %.0f samples/s  loss %.4f  accuracy %.4f  %s %.0f s", done_, total_, rate, loss_, accuracy_,
                    last ? "took" : "ETA", last ? seconds : left);
      // A line that wraps cannot be drawn over: the bar takes what the terminal's width leaves, and the rest is cut.
      std::size_t const columns = terminal_columns(), words = label_.size() + std::string_view{text}.size();
      std::size_t const room = columns > words + 4 ? columns - words - 4 : 0;
      std::size_t const width = room < 24 ? room : 24;
      std::string line = label_;
      if (width >= 4) {
        std::size_t const filled = total_ == 0 ? width : width * (done_ < total_ ? done_ : total_) / total_;
        line += " [" + std::string(filled, '#') + std::string(width - filled, '.') + "]";
      }
      line += text;
      if (line.size() >= columns) line.resize(columns - 1);
      std::fprintf(out_, "\r%s\033[K", line.c_str());
      std::fflush(out_);
    } else if (last) {
      std::fprintf(out_, "%s  %zu/%zu steps  %.0f samples/s  loss %.4f  accuracy %.4f  %.1f s", label_.c_str(), done_, total_, rate, loss_,
                   accuracy_, seconds);
    }
  }

  std::string label_;
  std::size_t total_, first_, done_;
  std::FILE* out_;
  bool quiet_, terminal_;
  double start_, drawn_;  // seconds
  std::size_t samples_ = 0;
  double loss_ = 0, accuracy_ = 0;
};

}  // namespace mortise
