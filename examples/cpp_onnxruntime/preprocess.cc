#include "preprocess.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <locale>
#include <sstream>
#include <stdexcept>

std::vector<float> parse_numbers(const std::string& text) {
  std::istringstream stream(text);
  stream.imbue(std::locale::classic());
  std::vector<float> numbers;
  float number;
  while (stream >> number) numbers.push_back(number);
  if (!stream.eof()) throw std::runtime_error("not a list of numbers: " + text);
  return numbers;
}

namespace {

// Where a pixel of the result lies between two of the source.
struct Place {
  int low, high;
  float share;  // of high
};

std::vector<Place> places(int from, int to) {
  std::vector<Place> result(to);
  const double step = static_cast<double>(from) / to;
  for (int i = 0; i < to; ++i) {
    const double where = (i + 0.5) * step - 0.5;
    const int low = static_cast<int>(std::floor(where));
    result[i] = {std::clamp(low, 0, from - 1), std::clamp(low + 1, 0, from - 1), static_cast<float>(where - low)};
  }
  return result;
}

}  // namespace

std::vector<float> preprocess(const Picture& picture, const Preprocessing& rule, int* width, int* height) {
  *width = rule.width > 0 ? rule.width : picture.width;
  *height = rule.height > 0 ? rule.height : picture.height;
  const auto columns = places(picture.width, *width), rows = places(picture.height, *height);
  std::vector<float> input(3 * static_cast<size_t>(*width) * *height);
  const auto pixel = [&](int y, int x, int channel) {
    return static_cast<float>(picture.pixels[(static_cast<size_t>(y) * picture.width + x) * 3 + channel]);
  };
  size_t next = 0;
  for (int channel = 0; channel < 3; ++channel) {
    const float scale = 1 / (255 * rule.std[channel]), shift = rule.mean[channel] / rule.std[channel];
    for (const Place& row : rows) {
      for (const Place& column : columns) {
        const float above = pixel(row.low, column.low, channel) * (1 - column.share) +
                            pixel(row.low, column.high, channel) * column.share;
        const float below = pixel(row.high, column.low, channel) * (1 - column.share) +
                            pixel(row.high, column.high, channel) * column.share;
        input[next++] = (above * (1 - row.share) + below * row.share) * scale - shift;
      }
    }
  }
  return input;
}

std::vector<uint8_t> restore_classes(const int32_t* classes, int width, int height, const Picture& picture) {
  std::vector<uint8_t> result(static_cast<size_t>(picture.width) * picture.height);
  size_t next = 0;
  for (int y = 0; y < picture.height; ++y) {
    const int32_t* row = classes + static_cast<int64_t>(y) * height / picture.height * width;
    for (int x = 0; x < picture.width; ++x)
      result[next++] = static_cast<uint8_t>(row[static_cast<int64_t>(x) * width / picture.width]);
  }
  return result;
}

std::vector<uint8_t> restore_scores(const float* scores, int count, int width, int height, const Picture& picture) {
  const size_t area = static_cast<size_t>(picture.width) * picture.height;
  const auto columns = places(width, picture.width), rows = places(height, picture.height);
  std::vector<uint8_t> classes(area, 0);
  std::vector<float> best(area, -std::numeric_limits<float>::infinity());
  for (int number = 0; number < count; ++number) {
    const float* plane = scores + static_cast<int64_t>(number) * width * height;
    size_t next = 0;
    for (const Place& row : rows) {
      const float* upper = plane + static_cast<int64_t>(row.low) * width;
      const float* lower = plane + static_cast<int64_t>(row.high) * width;
      for (const Place& column : columns) {
        const float above = upper[column.low] * (1 - column.share) + upper[column.high] * column.share;
        const float below = lower[column.low] * (1 - column.share) + lower[column.high] * column.share;
        const float score = above * (1 - row.share) + below * row.share;
        if (score > best[next]) best[next] = score, classes[next] = static_cast<uint8_t>(number);
        ++next;
      }
    }
  }
  return classes;
}
