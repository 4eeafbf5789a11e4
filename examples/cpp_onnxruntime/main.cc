// Segments a picture with an ONNX file that `export.py --onnx` (or prune, quant, post_quant, distill) wrote.
//
//   segment MODEL.onnx PICTURE MASK.png [--threads N] [--repeats N]
//
// The mask has the class number of every pixel, in the picture's size.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "preprocess.h"
#define STB_IMAGE_IMPLEMENTATION
#include "stb_image.h"
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include "stb_image_write.h"

namespace {

struct Arguments {
  std::string model, picture, mask;
  int threads = 0;  // 0: ONNX Runtime's choice, the physical cores
  int repeats = 1;
};

Arguments parse(int count, char** values) {
  Arguments result;
  std::vector<std::string> paths;
  for (int i = 1; i < count; ++i) {
    const std::string text = values[i];
    if ((text == "--threads" || text == "--repeats") && i + 1 < count) {
      (text == "--threads" ? result.threads : result.repeats) = std::stoi(values[++i]);
    } else {
      paths.push_back(text);
    }
  }
  if (paths.size() != 3 || result.repeats < 1 || result.threads < 0)
    throw std::runtime_error("usage: segment MODEL.onnx PICTURE MASK.png [--threads N] [--repeats N]");
  result.model = paths[0], result.picture = paths[1], result.mask = paths[2];
  return result;
}

Picture read_picture(const std::string& path) {
  Picture picture;
  int channels = 0;
  uint8_t* pixels = stbi_load(path.c_str(), &picture.width, &picture.height, &channels, 3);
  if (pixels == nullptr) throw std::runtime_error("cannot read " + path + ": " + stbi_failure_reason());
  picture.pixels.assign(pixels, pixels + 3 * static_cast<size_t>(picture.width) * picture.height);
  stbi_image_free(pixels);
  return picture;
}

// What the file says of itself under a key; nothing when it does not have it.
std::optional<std::string> metadata(const Ort::Session& session, const char* key) {
  Ort::AllocatorWithDefaultOptions allocator;
  const auto text = session.GetModelMetadata().LookupCustomMetadataMapAllocated(key, allocator);
  if (!text) return std::nullopt;
  return std::string(text.get());
}

Preprocessing preprocessing_of(const Ort::Session& session) {
  if (const auto other = metadata(session, "preprocess_other"))
    throw std::runtime_error("this example cannot do the preprocessing that the model wants: " + *other);
  Preprocessing rule;
  for (auto [key, target] : {std::pair("preprocess_mean", &rule.mean), std::pair("preprocess_std", &rule.std)}) {
    const auto numbers = parse_numbers(metadata(session, key).value_or(""));
    if (numbers.size() != 3)
      throw std::runtime_error(std::string("the file has no ") + key + "; export the model again with export.py --onnx");
    std::copy(numbers.begin(), numbers.end(), target->begin());
  }
  const auto size = parse_numbers(metadata(session, "preprocess_size").value_or(""));
  if (size.size() == 2) rule.width = static_cast<int>(size[0]), rule.height = static_cast<int>(size[1]);
  return rule;
}

// The mask of the model's output: int32 classes [1, H, W], or scores [1, C, H, W].
std::vector<uint8_t> mask_of(const Ort::Value& output, const Picture& picture) {
  const auto shape = output.GetTensorTypeAndShapeInfo().GetShape();
  if (shape.size() != 3 && shape.size() != 4) throw std::runtime_error("the model's output is no segmentation");
  const int height = static_cast<int>(shape[shape.size() - 2]), width = static_cast<int>(shape.back());
  if (shape.size() == 3) return restore_classes(output.GetTensorData<int32_t>(), width, height, picture);
  return restore_scores(output.GetTensorData<float>(), static_cast<int>(shape[1]), width, height, picture);
}

void run(const Arguments& arguments) {
  Ort::Env environment(ORT_LOGGING_LEVEL_WARNING, "segment");
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(arguments.threads);
  Ort::Session session(environment, std::filesystem::path(arguments.model).c_str(), options);

  const Picture picture = read_picture(arguments.picture);
  int width = 0, height = 0;
  std::vector<float> numbers = preprocess(picture, preprocessing_of(session), &width, &height);

  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const std::vector<int64_t> shape = {1, 3, height, width};
  const auto input =
      Ort::Value::CreateTensor<float>(memory, numbers.data(), numbers.size(), shape.data(), shape.size());
  Ort::AllocatorWithDefaultOptions allocator;
  const auto input_name = session.GetInputNameAllocated(0, allocator);
  const auto output_name = session.GetOutputNameAllocated(0, allocator);
  const char *inputs[] = {input_name.get()}, *outputs[] = {output_name.get()};

  std::vector<double> times;
  std::vector<Ort::Value> results;
  for (int i = 0; i <= arguments.repeats; ++i) {  // the first run allocates and does not count
    const auto start = std::chrono::steady_clock::now();
    results = session.Run(Ort::RunOptions{nullptr}, inputs, &input, 1, outputs, 1);
    const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - start;
    if (i > 0) times.push_back(spent.count());
  }
  const std::vector<uint8_t> mask = mask_of(results[0], picture);
  if (!stbi_write_png(arguments.mask.c_str(), picture.width, picture.height, 1, mask.data(), picture.width))
    throw std::runtime_error("cannot write " + arguments.mask);

  std::sort(times.begin(), times.end());
  std::printf("%dx%d, median of %zu runs: %.2f ms\n", width, height, times.size(), times[times.size() / 2]);
  std::printf("classes: %s\n", metadata(session, "class_names").value_or("not in the file").c_str());
}

}  // namespace

int main(int count, char** values) {
  try {
    run(parse(count, values));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "Error: %s\n", error.what());
    return 2;
  }
}
