// From a picture to the model's input, by what the ONNX file says of itself, and from its output to a mask.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

// Interleaved RGB, 0 ... 255.
struct Picture {
  int width = 0;
  int height = 0;
  std::vector<uint8_t> pixels;
};

// The metadata preprocess_mean, preprocess_std, preprocess_size of the file.
struct Preprocessing {
  std::array<float, 3> mean{};
  std::array<float, 3> std{1, 1, 1};
  int width = 0;  // 0: the picture keeps its size
  int height = 0;
};

// Numbers separated by blanks: "0.5 0.5 0.5". Throws std::runtime_error for anything else.
std::vector<float> parse_numbers(const std::string& text);

// Resize (bilinear, centres of pixels aligned), then (x / 255 - mean) / std; float [3, height, width].
// `width` and `height` become those of the result.
std::vector<float> preprocess(const Picture& picture, const Preprocessing& rule, int* width, int* height);

// Class numbers [height, width] in the picture's size: each pixel takes that of the nearest.
std::vector<uint8_t> restore_classes(const int32_t* classes, int width, int height, const Picture& picture);

// The same of scores [count, height, width], which are resized (bilinear) before the best class is chosen.
std::vector<uint8_t> restore_scores(const float* scores, int count, int width, int height, const Picture& picture);
