// Names what a picture shows. The network, its weights, its classes and its preprocessing are compiled in (plan.h).

#include <algorithm>
#include <chrono>
#include <cstring>

#include "backend.h"
#include "picture.h"

enum Place { WEIGHTS, ARENA, INPUT, OUTPUT };

struct Array {  // float32, of the shape that the loops expect
  Place place;
  int64_t offset;  // bytes
  std::vector<int64_t> shape;
};

struct Step {
  TVMFFISafeCallType loops;
  std::vector<int> arrays;  // inputs, then the output
};

asm(".pushsection .rodata\n.balign 64\nweights_begin: .incbin \"weights.bin\"\n.balign 64\n.popsection");
extern "C" const char weights_begin[];

#include "plan.h"

using Clock = std::chrono::steady_clock;

static double milliseconds(Clock::time_point since) {
  return std::chrono::duration<double, std::milli>(Clock::now() - since).count();
}

class Network {
 public:
  alignas(64) float input[kInputSize];
  alignas(64) float output[kClasses];

  Network() : memory_(static_cast<char*>(std::aligned_alloc(64, kArena))), strides_(arrays.size()) {
    tensors_.reserve(arrays.size());
    for (size_t i = 0; i < arrays.size(); ++i) {
      Array& array = arrays[i];
      char* const bases[] = {const_cast<char*>(weights_begin), memory_, reinterpret_cast<char*>(input),
                             reinterpret_cast<char*>(output)};
      int64_t stride = 1;
      strides_[i].resize(array.shape.size());
      for (size_t axis = array.shape.size(); axis-- > 0; stride *= array.shape[axis]) strides_[i][axis] = stride;
      tensors_.push_back({bases[array.place] + array.offset, {kDLCPU, 0}, int32_t(array.shape.size()),
                          {kDLFloat, 32, 1}, array.shape.data(), strides_[i].data(), 0});
    }
  }

  void run() {
    for (const Step& step : steps) {
      TVMFFIAny arguments[kMostArguments] = {}, result = {};
      for (size_t i = 0; i < step.arrays.size(); ++i) {
        arguments[i].type_index = kTVMFFIDLTensorPtr;
        arguments[i].v_ptr = &tensors_[step.arrays[i]];
      }
      if (step.loops(nullptr, arguments, int32_t(step.arrays.size()), &result) != 0)
        throw std::runtime_error("The network could not be computed; see above. Please report it.");
    }
  }

 private:
  char* memory_;
  std::vector<std::vector<int64_t>> strides_;
  std::vector<DLTensor> tensors_;
};

static void print_likeliest(const float* logits) {
  std::vector<int> order(kClasses);
  std::vector<double> shares(kClasses);
  double sum = 0;
  for (int i = 0; i < kClasses; ++i) order[i] = i;
  const float most = *std::max_element(logits, logits + kClasses);
  for (int i = 0; i < kClasses; ++i) sum += shares[i] = std::exp(double(logits[i]) - double(most));
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  for (int i = 0; i < std::min(kClasses, 5); ++i)
    std::printf("  %6.2f%%  %s\n", 100 * shares[order[i]] / sum, classes[order[i]]);
}

static int run(int count, char** texts) {
  const auto begun = Clock::now();
  const int cores = int(std::thread::hardware_concurrency());
  int runs = 1, workers = std::min(std::max(cores, 1), 4);
  bool show_logits = false;
  std::vector<std::string> paths;
  for (int i = 1; i < count; ++i) {
    const std::string text = texts[i];
    auto number = [&](int& value) {
      value = i + 1 < count ? std::atoi(texts[++i]) : 0;
      if (value < 1) throw std::runtime_error(text + " needs a whole number of 1 or more behind it.");
    };
    if (text == "--logits") show_logits = true;
    else if (text == "--runs") number(runs);
    else if (text == "--threads") number(workers);
    else if (text.rfind("--", 0) == 0)
      throw std::runtime_error(text + ": there are --logits, --runs N and --threads N.");
    else paths.push_back(text);
  }
  if (paths.empty()) {
    std::printf("classify [--logits] [--runs N] [--threads N] PICTURE.ppm|INPUT.f32 ...\n\n%s\n"
                "A picture is a binary PPM of any size; INPUT.f32 holds %d float32, the network's input (3, %d, %d).\n",
                kAbout, kInputSize, kCrop, kCrop);
    return 2;
  }
  static Network network;
  threads().start(workers);
  const double load = milliseconds(begun);
  for (const std::string& path : paths) {
    const std::string content = read_file(path);
    const auto prepared = Clock::now();
    if (content.rfind("P6", 0) == 0)
      fill_input(read_ppm(content, path), kResize, kCrop, kBicubic, kFactor, kShift, network.input);
    else if (content.size() == sizeof network.input)
      std::memcpy(network.input, content.data(), content.size());
    else
      throw std::runtime_error(path + ": neither a binary PPM (P6) nor " + std::to_string(kInputSize) +
                               " float32. Convert a photograph with: magick photo.jpg -auto-orient photo.ppm");
    const double prepare = milliseconds(prepared);
    std::vector<double> times;
    for (int i = 0; i < runs; ++i) {
      const auto started = Clock::now();
      network.run();
      times.push_back(milliseconds(started));
    }
    std::nth_element(times.begin(), times.begin() + runs / 2, times.end());
    std::printf("%s\n", path.c_str());
    print_likeliest(network.output);
    if (show_logits) {
      std::printf("  logits");
      for (float logit : network.output) std::printf(" %.9g", logit);
      std::printf("\n");
    }
    std::printf("  load %.2f ms, prepare %.2f ms, run %.2f ms (median of %d, %d threads)\n", load, prepare,
                times[runs / 2], runs, workers);
  }
  return 0;
}

int main(int count, char** texts) {
  try {
    return run(count, texts);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "classify: %s\n", error.what());
    return 1;
  }
}
