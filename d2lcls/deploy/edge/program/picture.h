// From a picture's file to the network's input, with the same pixels as Preprocess in d2lcls/data/preprocess.py has
// them with Pillow 13.
#pragma once

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

struct Picture {
  int width, height;
  std::vector<uint8_t> pixels;  // height * width * 3, RGB
};

inline std::string read_file(const std::string& path) {
  FILE* file = std::fopen(path.c_str(), "rb");
  if (!file) throw std::runtime_error(path + ": there is no such file, or it cannot be read.");
  std::string content;
  char part[65536];
  for (size_t got; (got = std::fread(part, 1, sizeof part, file)) > 0;) content.append(part, got);
  std::fclose(file);
  return content;
}

// Reads a binary PPM (P6, 8 bits), which every image program writes: magick cat.jpg -auto-orient cat.ppm
inline Picture read_ppm(const std::string& content, const std::string& path) {
  size_t at = 2;
  auto number = [&]() -> long {
    for (; at < content.size() && (std::isspace(uint8_t(content[at])) || content[at] == '#'); ++at)
      if (content[at] == '#') while (at < content.size() && content[at] != '\n') ++at;
    long value = -1;
    for (; at < content.size() && std::isdigit(uint8_t(content[at])) && value < 100000000; ++at)
      value = 10 * std::max(value, 0L) + (content[at] - '0');
    return value;
  };
  long width = number(), height = number(), most = number();
  ++at;  // one white space
  if (width < 1 || height < 1 || width * height > 100000000 || most != 255)
    throw std::runtime_error(path + ": expected a PPM picture of 8 bits (P6) and at most 100 megapixels.");
  size_t size = size_t(width) * height * 3;
  if (content.size() < at + size) throw std::runtime_error(path + ": the picture is cut short. Copy it again.");
  return {int(width), int(height), {content.begin() + at, content.begin() + at + size}};
}

// What one pixel of a scaled line is made of: the first pixel of the source, and the weights of it and those that
// follow, in whole numbers of 2^-22, as Pillow computes them.
struct Blend {
  int first;
  std::vector<int> weights;
};

inline double filter_weight(double x, bool bicubic) {
  x = std::fabs(x);
  if (!bicubic) return x < 1 ? 1 - x : 0;
  const double a = -0.5;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

inline std::vector<Blend> blends(int from, int to, bool bicubic) {
  const double scale = double(from) / to, wider = std::max(scale, 1.0), reach = (bicubic ? 2 : 1) * wider;
  std::vector<Blend> all;
  for (int place = 0; place < to; ++place) {
    const double centre = (place + 0.5) * scale;
    const int first = std::max(int(centre - reach + 0.5), 0), last = std::min(int(centre + reach + 0.5), from);
    std::vector<double> exact;
    double sum = 0;
    for (int source = first; source < last; ++source) {
      exact.push_back(filter_weight((source - centre + 0.5) * (1 / wider), bicubic));
      sum += exact.back();
    }
    Blend blend{first, {}};
    for (double weight : exact) {
      const double whole = (sum != 0 ? weight * (1 / sum) : weight) * (1 << 22);
      blend.weights.push_back(int(whole + (whole < 0 ? -0.5 : 0.5)));
    }
    all.push_back(std::move(blend));
  }
  return all;
}

// Returns one value of a scaled line, whose source has its pixels `stride` values apart.
inline uint8_t blend_at(const uint8_t* start, size_t stride, const Blend& blend) {
  int sum = 1 << 21;
  for (size_t i = 0; i < blend.weights.size(); ++i) sum += start[(blend.first + i) * stride] * blend.weights[i];
  return uint8_t(std::min(std::max(sum >> 22, 0), 255));
}

inline Picture scale_across(const Picture& from, int width, bool bicubic) {
  Picture result{width, from.height, std::vector<uint8_t>(size_t(width) * from.height * 3)};
  const auto all = blends(from.width, width, bicubic);
  for (int y = 0; y < from.height; ++y)
    for (int x = 0; x < width; ++x)
      for (int colour = 0; colour < 3; ++colour)
        result.pixels[(size_t(y) * width + x) * 3 + colour] =
            blend_at(&from.pixels[size_t(y) * from.width * 3 + colour], 3, all[x]);
  return result;
}

inline Picture scale_down(const Picture& from, int height, bool bicubic) {
  const int row = from.width * 3;
  Picture result{from.width, height, std::vector<uint8_t>(size_t(row) * height)};
  const auto all = blends(from.height, height, bicubic);
  for (int y = 0; y < height; ++y)
    for (int i = 0; i < row; ++i) result.pixels[size_t(y) * row + i] = blend_at(&from.pixels[i], row, all[y]);
  return result;
}

inline Picture scale(const Picture& from, int width, int height, bool bicubic) {
  // What comes first is rounded first; Pillow 13 begins with the height where it loses more than twice as many pixels.
  const int lost = from.height - height;
  if (lost > 0 && lost > 2 * (from.width - width))
    return scale_across(scale_down(from, height, bicubic), width, bicubic);
  return scale_down(scale_across(from, width, bicubic), height, bicubic);
}

// Scales the shorter side, cuts out the centre, normalises: float32 (3, crop, crop).
inline void fill_input(const Picture& picture, int resize, int crop, bool bicubic, const float* factor,
                       const float* shift, float* input) {
  const bool tall = picture.width <= picture.height;
  const double longer = tall ? double(resize) * picture.height / picture.width
                             : double(resize) * picture.width / picture.height;
  if (std::floor(longer) * resize > 1e8)
    throw std::runtime_error("The picture is too narrow to be scaled: cut it to what it is to show.");
  const int width = tall ? resize : int(longer), height = tall ? int(longer) : resize;
  const Picture scaled = scale(picture, width, height, bicubic);
  const int left = int(std::nearbyint((width - crop) / 2.0)), top = int(std::nearbyint((height - crop) / 2.0));
  for (int colour = 0; colour < 3; ++colour)
    for (int y = 0; y < crop; ++y)
      for (int x = 0; x < crop; ++x)
        *input++ = scaled.pixels[(size_t(top + y) * width + left + x) * 3 + colour] * factor[colour] + shift[colour];
}
